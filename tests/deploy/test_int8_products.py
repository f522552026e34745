"""Files in int8 are right on every processor.

Without VNNI a processor adds two products of an activation of 8 bits and a weight in 16 bits, and cuts off a sum that
does not fit. So weights that are multiplied have to be small enough for every activation, and what a runtime computes
has to be what the file says. The first is a law about the file, the second tells of the processor that tests run on.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tiny_models import inputs, tiny
from transformers import BertConfig, BertForMaskedLM

from secateur.deploy.export import export, opened

for package in ("onnx", "onnxruntime", "openvino", "nncf"):
    pytest.importorskip(package)

LARGEST_SUM = 2**15 - 1
"""Of two products, in 16 signed bits."""
LARGEST_ACTIVATION = 255
FILES = {"onnx, ranges of each batch": ".onnx", "onnx, calibrated": ".onnx", "openvino, calibrated": ".xml"}


@dataclass
class File:
    path: object
    model: object
    calibration: list

    def weights(self):
        """Lists of the 8-bit arrays in the file: those that are multiplied, and those whose rows are looked up."""
        return (weights_of_onnx if self.path.suffix == ".onnx" else weights_of_openvino)(self.path)


def weights_of_onnx(path):
    import onnx

    graph = onnx.load(path).graph
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    stored = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    multiplied = [node.input[1] for node in graph.node if node.op_type in ("MatMulInteger", "MatMul", "Gemm")]
    looked_up = [node.input[0] for node in graph.node if node.op_type == "Gather"]
    found = ([arrays.get(stored.get(name, name)) for name in names] for names in (multiplied, looked_up))
    return tuple([array for array in some if array is not None and array.dtype.itemsize == 1] for some in found)


def weights_of_openvino(path):
    import openvino

    multiplied, looked_up = [], []
    for convert in converts(openvino.Core().read_model(path)):
        user = convert
        while user.get_type_name() not in ("MatMul", "Gather"):
            user = next(iter(user.output(0).get_target_inputs())).get_node()
        (multiplied if user.get_type_name() == "MatMul" else looked_up).append(stored_in(convert))
    return multiplied, looked_up


def converts(model):
    """The operations that make float values of 8-bit weights."""
    for operation in model.get_ordered_ops():
        if operation.get_type_name() == "Convert" and stored_in(operation) is not None:
            yield operation


def stored_in(convert):
    node = convert.input_value(0).get_node()
    eight_bits = node.get_type_name() == "Constant" and node.get_element_type().get_type_name() in ("i8", "u8")
    return node.data if eight_bits else None


def written(model, kind, folder):
    calibration = [inputs(model, seed=seed) for seed in range(8)]
    path = folder / f"model{FILES[kind]}"
    ranges = {"calibration": calibration} if "calibrated" in kind else {}
    opset = {"opset": 20} if path.suffix == ".onnx" else {}  # the first that onnx's own evaluator knows
    export(model, path, dtype="int8", **ranges, **opset)
    return File(path, model, calibration)


@pytest.fixture(scope="module", params=FILES)
def file(request, tmp_path_factory):
    return written(tiny("bert", dtype=torch.float32), request.param, tmp_path_factory.mktemp("int8"))


def linears(model):
    return sum(isinstance(module, torch.nn.Linear) for module in model.modules())


def test_two_products_fit_into_16_bits_whatever_the_activations(file):
    multiplied, _ = file.weights()
    assert len(multiplied) == linears(file.model)
    for weight in multiplied:
        assert weight.dtype == np.int8
        largest = abs(weight.astype(int)).max()
        assert 2 * LARGEST_ACTIVATION * largest <= LARGEST_SUM and largest >= 63, "7 bits, and all of them"


def test_results_of_products_keep_all_their_bits(file):
    """Outliers among them would leave few of 8 bits to the others."""
    if file.path.suffix != ".onnx":
        pytest.skip("NNCF decides for OpenVINO, which smooths outliers")
    import onnx

    graph = onnx.load(file.path).graph
    products = {node.output[0] for node in graph.node if node.op_type in ("MatMul", "Gemm", "MatMulInteger")}
    rounded = {node.input[0] for node in graph.node if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")}
    assert len(products) >= linears(file.model) and rounded and not products & rounded


def test_tables_that_are_looked_up_have_all_8_bits(file):
    _, looked_up = file.weights()
    tables = [module for module in file.model.modules() if isinstance(module, torch.nn.Embedding)]
    assert len(looked_up) == len(tables) == 3
    for table in looked_up:
        assert np.ptp(table.astype(int)) > 2 * 127 - 32, "most of 255 steps, also where the scale is symmetric"


def test_the_table_of_a_tied_output_layer_has_8_bits_where_it_is_looked_up_and_7_where_it_is_multiplied(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    model = BertForMaskedLM(BertConfig(vocab_size=50, **sizes)).eval()
    multiplied, looked_up = written(model, "onnx, calibrated", tmp_path).weights()
    assert len(multiplied) == linears(model) and max(abs(weight.astype(int)).max() for weight in multiplied) == 64
    assert len(looked_up) == 3 and min(np.ptp(table.astype(int)) for table in looked_up) > 128


def test_this_processor_computes_what_the_file_says(file):
    """Compared with sums in wider numbers; sums that are cut off move these outputs by a quarter of the largest one."""
    for batch in file.calibration[:2]:
        arrays = {name: value.numpy() for name, value in batch.items()}
        if file.path.suffix == ".onnx":
            computed, expected = opened(file.path)(batch)[0], by_reference(file.path, arrays)
        else:
            computed, expected = (by_openvino(file.path, arrays, widened=widened) for widened in (False, True))
        assert abs(computed - expected).max() < 0.02 * abs(expected).max(), "less than a few activations rounded apart"


def by_reference(path, arrays):
    """The first output by onnx's evaluator, whose sums of products have 32 bits."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(path)
    return ReferenceEvaluator(model).run(None, {port.name: arrays[port.name] for port in model.graph.input})[0]


def by_openvino(path, arrays, *, widened):
    """The first output by OpenVINO; with the same weights as float32 numbers, so multiplied as such, if `widened`."""
    import openvino

    model = openvino.Core().read_model(path)
    for convert in list(converts(model)) if widened else ():
        convert.output(0).replace(openvino.opset13.constant(stored_in(convert).astype(np.float32)).output(0))
    run = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return run({port: arrays[port.get_any_name()] for port in run.inputs})[0]
