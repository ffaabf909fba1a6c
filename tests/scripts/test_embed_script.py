import json
from pathlib import Path

import numpy as np
from PIL import Image
from script_driver import run_many

from rfd_tf.data import digits

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "exported" / "six_layer_rfd_cifar10"


def test_command_lines_and_their_exit_codes(tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for number, image in enumerate(digits("test").images[:30]):
        Image.fromarray(image).save(images / f"{number:02d}.png")
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    folder, by_name = f"--data_dir={images}", "--weights=rfd_cifar10"
    lines = [
        ([by_name, folder], 2, "--output_dir is missing"),
        ([folder, f"--output_dir={out}"], 2, "give --weights (a run folder,"),
        (
            [by_name, "--onnx=x", folder, f"--output_dir={out}"],
            2,
            "give --weights or --onnx, not both",
        ),
        (["--onnx=no.onnx", folder, f"--output_dir={out}"], 2, "no such ONNX file: 'no.onnx'"),
        (["--onnx=x", "--image_size=64", folder, f"--output_dir={out}"], 2, "--image_size goes"),
        (
            [by_name, "--features=f3", folder, f"--output_dir={out}"],
            2,
            "unknown feature 'f3' (did you",
        ),
        ([by_name, "--features=f,f2,block4", folder, f"--output_dir={out}"], 0, ""),
        ([by_name, "--features=f,f2,block4", folder, f"--output_dir={out}"], 0, ""),
        ([by_name, folder, f"--output_dir={out}"], 2, f"'{out}' holds embeddings of another kind"),
        ([f"--onnx={SHIPPED / 'model.onnx'}", folder, f"--output_dir={out}", "--overwrite"], 0, ""),
        ([f"--onnx={SHIPPED / 'model.int8.onnx'}", folder, f"--output_dir={out}8"], 0, ""),
    ]
    found = run_many("embed", [arguments for arguments, _, _ in lines])
    for (code, _, err), (arguments, expected, message) in zip(found, lines, strict=True):
        assert code == expected, (arguments, err)
        told = [line for line in err.splitlines() if line.startswith("error:")]
        assert len(told) == bool(message) and "Traceback" not in err
        assert not message or told[0].startswith(f"error: {message}")

    first, again = found[6][1], found[7][1]
    assert f"30 images embedded in {out}: f [128], f2 [64], block4 [" in first
    assert "images a second)" in first and "1 cannot be decoded: skipped_files.txt" in first
    assert "all were there already" in again
    assert json.loads((out / "file_names.json").read_text())[:2] == ["00.png", "01.png"]
    float32, int8 = np.load(out / "embedding.npy"), np.load(f"{out}8/embedding.npy")
    cosine = (
        (float32 * int8).sum(1) / np.linalg.norm(float32, axis=1) / np.linalg.norm(int8, axis=1)
    )
    assert cosine.min() > 0.99
    # What is of the earlier kind is gone.
    assert not (out / "f.npy").exists()
