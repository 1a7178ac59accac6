// inspect BUNDLE IMAGE [THRESHOLD]: judges one image with a bundle through ONNX Runtime's C++ API and prints its score.
// NOT COMPILED in this project's tests: ONNX Runtime's wheel has no headers. Its release archives have them.
// IMAGE is a binary PPM (P6, colour) or PGM (P5, mono) with 8 bits, or a raw file of height x width x channels bytes.
// Bytes go in as they are, RGB, rows from the top. Only the resize is not in the graph: an image of another size is
// refused, as is a bundle that looks at parts of a picture. UNKNOWN (not finite) is what a line must treat as a reject.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <onnxruntime_cxx_api.h>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

// The pixels of a file: one of just their size is raw, any other must be a PPM or PGM.
std::vector<uint8_t> read_image(const std::string& path, size_t height, size_t width, size_t channels) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + ": cannot be read");
    std::vector<uint8_t> bytes((std::istreambuf_iterator<char>(file)), {});
    const size_t expected = height * width * channels;
    if (bytes.size() == expected) return bytes;
    std::istringstream header(std::string(bytes.begin(), bytes.begin() + std::min<size_t>(bytes.size(), 4096)));
    auto number = [&header] {
        while (header >> std::ws && header.peek() == '#') header.ignore(4096, '\n');  // a comment
        size_t value = 0;
        header >> value;
        return value;
    };
    std::string kind(2, ' ');
    header.read(&kind[0], 2);
    const size_t found_width = number(), found_height = number(), top = number();
    header.get();  // one white space, then the pixels
    if (!header || kind != (channels == 3 ? "P6" : "P5") || found_width != width || found_height != height ||
        top != 255 || bytes.size() - size_t(header.tellg()) != expected)
        throw std::runtime_error(path + ": is no 8-bit image of " + std::to_string(width) + " x " +
                                 std::to_string(height) + " x " + std::to_string(channels) + ", as the graph takes it");
    return {bytes.begin() + header.tellg(), bytes.end()};
}

int main(int count, char** arguments) try {
    if (count < 3) throw std::runtime_error("usage: inspect BUNDLE IMAGE [THRESHOLD]");
    char* rest = nullptr;
    const double threshold = count > 3 ? std::strtod(arguments[3], &rest) : 1;
    if (!(threshold > 0) || !std::isfinite(threshold) || (rest && *rest))
        throw std::runtime_error("the threshold is no number above 0");
    std::ifstream manifest(std::string(arguments[1]) + "/manifest.json");
    const std::string facts(std::istreambuf_iterator<char>(manifest), {});
    if (facts.empty()) throw std::runtime_error(std::string(arguments[1]) + "/manifest.json: cannot be read");
    if (std::regex_search(facts, std::regex(R"("crop_px": \[|"tile_px": [1-9]|"height_px": (\d+),[^}]*"resize_height_px": (?!\1,))")))
        throw std::runtime_error("the bundle looks at parts of a picture (a crop, tiles); this example cuts none out");
    Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "inspect");
    const std::string path = std::string(arguments[1]) + "/model.onnx";
    Ort::Session session(environment, path.c_str(), Ort::SessionOptions());  // Windows: a wide string
    const auto sides = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();  // N, H, W, C
    auto pixels = read_image(arguments[2], size_t(sides[1]), size_t(sides[2]), size_t(sides[3]));
    const int64_t shape[] = {1, sides[1], sides[2], sides[3]};
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    auto image = Ort::Value::CreateTensor<uint8_t>(memory, pixels.data(), pixels.size(), shape, 4);
    const char *inputs[] = {"image"}, *outputs[] = {"anomaly_map", "score"};
    auto found = session.Run(Ort::RunOptions{nullptr}, inputs, &image, 1, outputs, 2);
    const float score = found[1].GetTensorData<float>()[0];
    const float* map = found[0].GetTensorData<float>();
    const size_t map_size = found[0].GetTensorTypeAndShapeInfo().GetElementCount();
    bool finite = std::isfinite(score);
    for (size_t i = 0; i < map_size; i++) finite = finite && std::isfinite(map[i]);
    const char* decision = !finite ? " UNKNOWN" : score >= threshold ? " NG" : " OK";
    std::cout << std::setprecision(9) << score << (count > 3 ? decision : "") << std::endl;
    return finite ? 0 : 1;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 1;
}
