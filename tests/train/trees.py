"""Small data sets in exactly the layouts that the adapters document."""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (40, 32)  # width, height


def picture(path: Path, *, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    start = zlib.crc32("/".join(path.parts[-3:]).encode()) % (width * height)  # so that no two are alike
    ramp = np.roll(np.linspace(0, 255, width * height, dtype=np.uint8), start).reshape(height, width)
    Image.fromarray(np.stack([ramp, ramp[::-1], ramp], axis=2)).save(path)
    return path


def mask(path: Path, *, size: tuple[int, int] = SIZE, level: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.zeros((height, width), np.uint8)
    pixels[: height // 2, : width // 2] = level
    Image.fromarray(pixels).save(path)
    return path


def mvtec(root: Path, *, masks: bool = True) -> Path:
    for name in ("000", "001", "002"):
        picture(root / "train" / "good" / f"{name}.png")
    for name in ("000", "001"):
        picture(root / "test" / "good" / f"{name}.png")
    for defect in ("crack", "dent"):
        for name in ("000", "001"):
            picture(root / "test" / defect / f"{name}.png")
            if masks:
                mask(root / "ground_truth" / defect / f"{name}_mask.png")
    return root


def oct2017(root: Path) -> Path:
    for name in ("NORMAL", "CNV", "DME", "DRUSEN"):
        for split in ("train", "test"):
            for number in (1, 2):
                picture(root / split / name / f"{name}-{number}.jpeg")
    return root


def aebad_s(root: Path) -> Path:
    folder = root / "AeBAD_S"
    for group in ("background", "illumination", "view"):
        picture(folder / "train" / "good" / group / "a.png")
    for domain in ("same", "background", "illumination", "view"):
        picture(folder / "test" / "good" / domain / "a.png")
        for defect in ("ablation", "breakdown"):
            picture(folder / "test" / defect / domain / "b.png")
            mask(folder / "ground_truth" / defect / domain / "b.png")
    return root


def aebad_v(root: Path) -> Path:
    folder = root / "AeBAD_V"
    for group in ("video1_train", "video2_train"):
        picture(folder / "train" / "good" / group / "1.jpg")
    for video in ("video1", "video2", "video3"):
        picture(folder / "test" / video / "good" / "1.jpg")
        for defect in ("ablation", "fracture"):
            picture(folder / "test" / video / defect / "2.jpg")
    return root


def visa(root: Path) -> Path:
    lines = ["object,split,label,image,mask"]
    for name in ("candle", "pcb1"):
        for split, number in (("train", "0000"), ("train", "0001"), ("test", "0002")):
            place = f"{name}/Data/Images/Normal/{number}.JPG"
            picture(root / place)
            lines.append(f"{name},{split},normal,{place},")
        place, mask_place = f"{name}/Data/Images/Anomaly/000.JPG", f"{name}/Data/Masks/Anomaly/000.png"
        picture(root / place)
        mask(root / mask_place, level=2)  # VisA's masks hold class numbers
        lines.append(f"{name},test,anomaly,{place},{mask_place}")
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(lines) + "\n")
    return root
