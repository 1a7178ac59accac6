// inspect BUNDLE IMAGE [THRESHOLD]: judges one image with a bundle through OpenVINO's C++ API and prints its score.
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
#include <openvino/openvino.hpp>
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
    ov::Core core;
    auto model = core.read_model(std::string(arguments[1]) + "/model.onnx");
    const auto input = model->input("image").get_partial_shape();  // (N, H, W, C)
    const size_t height = input[1].get_length(), width = input[2].get_length(), channels = input[3].get_length();
    auto pixels = read_image(arguments[2], height, width, channels);
    // without the hint OpenVINO computes in bf16 wherever the processor can
    auto compiled = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32),
                                       ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
    auto request = compiled.create_infer_request();
    request.set_tensor("image", ov::Tensor(ov::element::u8, {1, height, width, channels}, pixels.data()));
    request.infer();
    const float score = request.get_tensor("score").data<float>()[0];
    const float* map = request.get_tensor("anomaly_map").data<float>();
    const size_t map_size = request.get_tensor("anomaly_map").get_size();
    bool finite = std::isfinite(score);
    for (size_t i = 0; i < map_size; i++) finite = finite && std::isfinite(map[i]);
    const char* decision = !finite ? " UNKNOWN" : score >= threshold ? " NG" : " OK";
    std::cout << std::setprecision(9) << score << (count > 3 ? decision : "") << std::endl;
    return finite ? 0 : 1;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 1;
}
