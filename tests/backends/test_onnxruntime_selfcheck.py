"""Forms and their judging: what is offered for which CPU, what counts as right, and that wrong ones are found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trtforge.backends.batching import Batch
from trtforge.backends.onnxruntime_ import choose as choosing
from trtforge.backends.onnxruntime_.checkpoints import checkpoints
from trtforge.backends.onnxruntime_.choose import choose
from trtforge.backends.onnxruntime_.forms import EXACT, candidates, required_isa, saturates
from trtforge.backends.onnxruntime_.lowering import lower
from trtforge.backends.onnxruntime_.selfcheck import MEAN_DB, Finding, SelfCheck, finite, verdict
from trtforge.backends.sqnr import Sqnr
from trtforge.errors.backend import ProbeNotFinite, RuntimeRefusedGraph
from trtforge.graph.model import Model
from trtforge.graph.shapes import freeze_inputs
from trtforge.recipe.models import Quantize
from trtforge.samples.base import Sample
from trtforge.scales.codecs.qdq import insert
from trtforge.targets.host import HostFacts


def host(*isa: str, machine: str = "x86_64") -> HostFacts:
    return HostFacts(model="test CPU", vendor="test", machine=machine, cores=1, isa=tuple(sorted(isa)))


VNNI, AVX2, ARM = host("avx2", "avx512_vnni"), host("avx2"), host("asimd", machine="aarch64")


def prepared(net):
    floating = freeze_inputs(net.model, {"x": net.shape})
    return floating, insert(floating, net.table, Quantize())[0]


def probes(net, count=4):
    return [Batch((sample,), dict(sample.inputs)) for sample in net.samples[:count]]


def test_forms_fit_the_cpu():
    assert saturates(AVX2)
    assert not saturates(VNNI)
    assert not saturates(ARM)
    for cpu in (VNNI, AVX2, ARM):
        assert candidates(cpu)[-1] is EXACT
    assert all(form.signed_weights != "int8" for form in candidates(AVX2)[:-1])
    assert not any(form.needs_int8_dot for form in candidates(AVX2))
    assert all(form.needs_int8_dot for cpu in (VNNI, ARM) for form in candidates(cpu)[:-1])
    assert required_isa(candidates(ARM)[0], ARM) == []
    assert required_isa(candidates(VNNI)[0], VNNI) == ["avx512_vnni"]
    assert required_isa(EXACT, VNNI) == []
    names = [form.name for cpu in (VNNI, AVX2) for form in candidates(cpu)[:-1]]
    assert len(names) == len(set(names))


def test_the_form_nearest_to_tensorrt_is_right_here(residual, signed, relu6):
    """Its arithmetic is sound on any CPU, whatever this one is; others may lose more than is allowed."""
    for net in (residual, signed, relu6):
        floating, quantized = prepared(net)
        check = SelfCheck(floating, quantized, EXACT.config, probes(net))
        exact = check.judge("exact", quantized, EXACT.config)
        assert exact.right
        assert exact.mean_loss_db == 0
        for form in candidates(AVX2)[:-1]:
            if form.signed_weights == "uint8" and form.slack == 0:
                model, _ = lower(quantized, floating, net.table, slack=form.slack, signed_weights=form.signed_weights)
                assert check.judge(form.name, model, form.config).right


def test_a_broken_form_is_found(residual):
    floating, quantized = prepared(residual)
    check = SelfCheck(floating, quantized, EXACT.config, probes(residual))
    model, _ = lower(quantized, floating, residual.table, slack=0.0, signed_weights="int8")
    weight = next(tensor for tensor in model.proto.graph.initializer if tensor.name == "c3_w_quantized")
    values = numpy_helper.to_array(weight)
    # what saturation looks like: the largest weights lose a part of their products
    weight.CopyFrom(numpy_helper.from_array(np.clip(values, -40, 40), weight.name))
    broken = check.judge("broken", model, {})
    assert not broken.right
    assert "below the exact simulation" in broken.why
    assert broken.to_json()["right"] is False


def test_a_form_onnxruntime_refuses_is_wrong_with_its_words(residual):
    floating, quantized = prepared(residual)
    check = SelfCheck(floating, quantized, EXACT.config, probes(residual, 1))
    model, _ = lower(quantized, floating, residual.table, slack=0.0, signed_weights="int8")
    model.proto.graph.node[-1].op_type = "NoSuchOperator"
    refused = check.judge("refused", model, {})
    assert not refused.right
    assert "NoSuchOperator" in refused.why


def test_checkpoints_hold_outputs_and_the_nearest_quantized_tensors(residual):
    floating, quantized = prepared(residual)
    found = checkpoints(floating, quantized)
    assert found[0].tensor == "logits"
    assert found[0].quantized == ""
    assert {point.tensor for point in found} == {"logits"} | {
        node.input[0] for node in quantized.proto.graph.node if node.op_type == "QuantizeLinear"
    }


def test_a_small_budget_keeps_the_nearest(residual, monkeypatch):
    floating, quantized = prepared(residual)
    monkeypatch.setattr("trtforge.backends.onnxruntime_.checkpoints.BUDGET_BYTES", 0)
    found = checkpoints(floating, quantized)
    assert [point.tensor for point in found] == ["logits", "flat"] or [point.tensor for point in found] == [
        "logits",
        "gap",
    ]


def finding(loss: float, exact: float = 20.0, allowed: float = 4.0) -> Finding:
    return Finding("t", exact - loss, exact, allowed)


def test_verdict_by_mean_and_by_single():
    assert verdict("f", [finding(0.4), finding(0.5)]).right
    assert not verdict("f", [finding(0.4), finding(0.7)]).right
    lone = verdict("f", [*[finding(0.0)] * 20, finding(5.0)])
    assert not lone.right
    assert "5.0 dB" in lone.why
    assert verdict("f", [*[finding(0.0)] * 40, finding(10.0, exact=55.0)]).right  # 45 dB is good all the same
    assert not verdict("f", [finding(math.nan)]).right
    assert verdict("f", [finding(-50.0, exact=math.inf)]).right


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=20))
def test_a_right_form_is_within_the_mean(losses):
    found = verdict("f", [finding(loss) for loss in losses])
    mean = np.mean(np.maximum(losses, -MEAN_DB))
    assert found.right == (mean <= MEAN_DB and max(losses) <= 4.0) or abs(mean - MEAN_DB) < 1e-6


def test_gains_do_not_pay_for_losses():
    """Half of the tensors in finer steps, the other half with 4 dB lost: on average a gain, and wrong."""
    assert not verdict("f", [finding(-6.0)] * 20 + [finding(4.0)] * 20).right
    assert verdict("f", [finding(-6.0)] * 20 + [finding(0.4)] * 20).right


def test_noise_in_a_tensor_of_zeros_is_no_loss_where_the_exact_form_has_it_too():
    silent = Finding("t", -math.inf, -math.inf, 4.0)
    assert silent.loss_db == 0
    assert not silent.is_lost
    assert verdict("f", [silent, finding(0.1)]).right
    assert not verdict("f", [Finding("t", -math.inf, 20.0, 4.0)]).right


def with_output(net, op: str, dims: list, dtype: int):
    """The net with ``op`` of its logits as the only output."""
    proto = type(net.model.proto).FromString(net.model.proto.SerializeToString())
    del proto.graph.output[:]
    proto.graph.node.append(helper.make_node(op, ["logits"], ["decision"], name="decision"))
    proto.graph.output.append(helper.make_tensor_value_info("decision", dtype, dims))
    floating = freeze_inputs(Model(proto), {"x": net.shape})
    return floating, insert(floating, net.table, Quantize())[0]


@pytest.mark.parametrize(("op", "dims"), [("NonZero", [2, None]), ("ArgMax", [1, 10])])
def test_decisions_are_not_compared_but_what_they_are_made_from(relu6, op, dims):
    """A list of detections has another length with the slightest difference; that is no reason to fail the build."""
    floating, quantized = with_output(relu6, op, dims, TensorProto.INT64)
    check = SelfCheck(floating, quantized, EXACT.config, probes(relu6))
    assert check.exact_to_json()["output_sqnr_db"] == {}
    assert {finding.tensor for finding in check.judge("exact", quantized, EXACT.config).findings} >= {"flat"}


def test_an_output_of_another_length_does_not_fail_the_build(relu6):
    proto = type(relu6.model.proto).FromString(relu6.model.proto.SerializeToString())
    proto.graph.node.append(helper.make_node("Relu", ["a_project"], ["positive"], name="positive"))
    proto.graph.node.append(helper.make_node("NonZero", ["positive"], ["found"], name="found"))
    proto.graph.output.append(helper.make_tensor_value_info("found", TensorProto.INT64, [4, None]))
    floating = freeze_inputs(Model(proto), {"x": relu6.shape})
    quantized = insert(floating, relu6.table, Quantize())[0]
    check = SelfCheck(floating, quantized, EXACT.config, probes(relu6))
    assert list(check.exact_to_json()["output_sqnr_db"]) == ["logits"]


def test_nan_in_the_float_model_is_refused_with_sample_and_tensor(residual):
    floating, quantized = prepared(residual)
    bad = Sample("bad.png", "0" * 64, {"x": np.full((1, 3, 32, 32), np.nan, np.float32)})
    with pytest.raises(ProbeNotFinite) as caught:
        SelfCheck(floating, quantized, EXACT.config, [Batch((bad,), dict(bad.inputs))])
    assert "bad.png" in caught.value.why
    assert caught.value.where


def test_a_graph_onnxruntime_cannot_run_is_refused(residual):
    floating, quantized = prepared(residual)
    broken = Model(type(floating.proto).FromString(floating.proto.SerializeToString()))
    broken.proto.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(RuntimeRefusedGraph, match="onnxruntime could not"):
        SelfCheck(broken, quantized, EXACT.config, probes(residual, 1))


@pytest.mark.parametrize("cpu", [VNNI, AVX2, ARM], ids=["vnni", "avx2", "arm"])
def test_choice_takes_the_first_right_form_that_is_faster(residual, tmp_path, monkeypatch, cpu):
    monkeypatch.setattr(SelfCheck, "speedup", lambda self, model, config: 2.0)
    floating, quantized = prepared(residual)
    choice = choose(floating, quantized, residual.request(tmp_path), cpu)
    forms = choice.self_check["forms"]
    assert [form["right"] for form in forms] == [False] * (len(forms) - 1) + [True]
    assert forms[-1]["form"] == choice.form.name
    assert choice.form in candidates(cpu)
    assert choice.lowering is not None


def test_choice_is_exact_when_nothing_is_faster(residual, tmp_path, monkeypatch):
    monkeypatch.setattr(SelfCheck, "speedup", lambda self, model, config: choosing.FASTER - 0.01)
    floating, quantized = prepared(residual)
    choice = choose(floating, quantized, residual.request(tmp_path), VNNI)
    assert choice.form is EXACT
    assert choice.model is quantized
    assert any("as fast" in form["why"] for form in choice.self_check["forms"] if form["right"])


def test_choice_without_probes_is_exact_and_says_so(residual, tmp_path):
    floating, quantized = prepared(residual)
    choice = choose(floating, quantized, residual.request(tmp_path, probes=0), VNNI)
    assert choice.form is EXACT
    assert choice.self_check is None


def test_speedup_is_a_ratio_of_real_runs(residual):
    floating, quantized = prepared(residual)
    check = SelfCheck(floating, quantized, EXACT.config, probes(residual, 1))
    assert 0.01 < check.speedup(quantized, EXACT.config) < 100


def test_sqnr_edges():
    def db(reference, candidate):
        total = Sqnr()
        total.add(np.asarray(reference, np.float32), np.asarray(candidate, np.float32))
        return total.db

    assert db([3, 4], [3, 4]) == math.inf
    assert db([0, 0], [0, 0]) == math.inf
    assert db([0, 0], [0, 1]) == -math.inf
    assert db([1, 0], [1, math.inf]) == -math.inf
    assert math.isnan(db([1, math.nan], [1, 1]))
    assert db([10, 0], [10, 1]) == pytest.approx(20)
    with pytest.raises(ValueError, match="shapes differ"):
        db([1], [1, 2])


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_sqnr_does_not_depend_on_how_it_is_cut(parts, seed):
    rng = np.random.default_rng(seed)
    reference, noise = rng.normal(size=60), rng.normal(size=60) * 0.1
    whole, cut = Sqnr(), Sqnr()
    whole.add(reference, reference + noise)
    for piece in np.array_split(np.arange(60), parts):
        cut.add(reference[piece], (reference + noise)[piece])
    assert cut.db == pytest.approx(whole.db)
    assert cut.values == 60


def test_finite_numbers_for_json():
    assert finite(None) is None
    assert finite(math.nan) is None
    assert finite(math.inf) == 999.0
    assert finite(-math.inf) == -999.0
    assert finite(1.23456) == 1.235
