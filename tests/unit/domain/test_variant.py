from __future__ import annotations

from dataclasses import replace

import pytest

from vllm_ci.domain.project import ModelSpec, Project, ServerSpec, TinyModel
from vllm_ci.domain.variant import Variant, cross

PROJECT = Project(
    name="p",
    config="vllm-ci.yaml",
    model=ModelSpec(served_name="m", tiny=TinyModel()),
    server=ServerSpec(args=("--dtype=float32",), env={"A": "1"}),
    stages=(),
)
CHECKPOINT = replace(PROJECT, model=ModelSpec(served_name="m", name="org/name"))


def test_axes_are_crossed_excluded_and_added_to() -> None:
    variants = cross(
        {"dtype": ["float32", "float16"], "tensor_parallel_size": [1, 2]},
        [Variant(adapter=True), Variant(label="long", args=("--max-model-len=4096",))],
        [{"dtype": "float16", "tensor_parallel_size": 2}],
    )
    assert [variant.name for variant in variants] == ["float32", "float32-tp2", "float16", "lora", "long"]


def test_no_axes_is_no_combination() -> None:
    assert cross({}) == ()


def test_the_first_of_two_variants_of_one_name_stays() -> None:
    assert cross({"dtype": ["float16"]}, [Variant(dtype="float16", env={"B": "2"})]) == (Variant(dtype="float16"),)


def test_flags_of_a_variant_come_after_those_of_the_project() -> None:
    served = Variant(dtype="float16", args=("--seed=1",), env={"B": "2"}).of(PROJECT).server
    assert served.args == ("--dtype=float32", "--dtype=float16", "--seed=1")
    assert served.env == {"A": "1", "B": "2"}


def test_int8_and_an_adapter_are_made_into_the_tiny_model() -> None:
    served = Variant(quantization="int8", adapter=True).of(PROJECT)
    assert served.model.tiny is not None
    assert (served.model.tiny.quantization, served.model.tiny.adapter) == ("int8", True)
    assert "--lora-modules=m-lora={in.model}/adapter" in served.server.args
    assert not any(argument.startswith("--quantization") for argument in served.server.args)


def test_another_quantization_is_a_flag_for_the_users_own_checkpoint() -> None:
    assert Variant(quantization="awq").of(CHECKPOINT).server.args[-1] == "--quantization=awq"


def test_shards_get_a_core_each_where_there_is_no_gpu() -> None:
    served = Variant(tensor_parallel_size=2).of(PROJECT).server
    assert "--tensor-parallel-size=2" in served.args
    assert served.env["VLLM_CPU_OMP_THREADS_BIND"] == "0|1"


@pytest.mark.parametrize(
    ("variant", "project", "reason"),
    [
        (Variant(tensor_parallel_size=8), PROJECT, "8 shards need as many cores, but there are 4"),
        (
            Variant(tensor_parallel_size=8),
            replace(PROJECT, server=ServerSpec(gpus="all")),
            "need as many GPUs, but there are 1",
        ),
        (Variant(quantization="fp8"), PROJECT, "cannot be generated with fp8"),
        (Variant(quantization="int8"), CHECKPOINT, "for the tiny model only"),
        (Variant(adapter=True), CHECKPOINT, "for the tiny model only"),
        (Variant(tensor_parallel_size=4), PROJECT, ""),
        (Variant(dtype="float16"), CHECKPOINT, ""),
    ],
)
def test_what_cannot_be_served_there_says_why(variant: Variant, project: Project, reason: str) -> None:
    found = variant.impossible(project, gpus=1, cores=4)
    assert reason in found
    assert bool(reason) == bool(found)


def test_what_an_engine_cannot_know_stops_nothing() -> None:
    assert Variant(tensor_parallel_size=64).impossible(PROJECT, gpus=None, cores=None) == ""
