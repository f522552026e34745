"""Tables of files say the size of a small model in three digits, as reports do."""

from secateur.cli.deploy_output import show_export, show_folder
from secateur.cli.model_output import show_vocabulary


def test_a_file_below_a_megabyte_has_a_size(capsys):
    facts = {"format": "onnx", "dtype": "fp32", "opset": 18}
    file = {"path": "m.onnx", "facts": facts, "bytes": 20_300, "difference": 0.0}
    show_export({**file, "examples": 8, "scale": 1.0})
    show_folder({"path": "m", "files": [file], "latency": [], "unstated": [], "max_length": 16})
    show_vocabulary({"size": 50, "kept": 20, "bytes_before": 51_200, "bytes_after": 20_000})
    shown = capsys.readouterr().out
    assert shown.count("0.0203") == 2 and "0.0512" in shown and "0.02" in shown
