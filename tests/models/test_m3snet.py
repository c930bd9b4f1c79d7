"""The network against the published one's stored outputs (golden/), against spandrel's, and against what it says."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3snet.models import (
    FFM,
    MHAMB,
    SIZES,
    M3SNet,
    NAFBlock,
    apply_tlc,
    create_model,
    load_model,
    save_weights,
    size_name,
)
from m3snet.models.weights import from_published, to_published
from m3snet.tests.filled import fill, filled, tiny

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 2e-5  # of the largest value


@pytest.fixture(scope="module")
def outputs() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "outputs.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def run(model: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(image)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


# Equal to the published network


def test_output_is_the_published_one(outputs: dict[str, torch.Tensor]) -> None:
    model = load_model(GOLDEN / "tiny_published.pth")
    assert model.config["enc_blk_nums"] == (1, 1, 1, 2)
    assert error(run(model, outputs["tiny_input"]), outputs["tiny_output"]) < TOLERANCE
    assert error(run(model, outputs["tlc_input"]), outputs["tlc_full_output"]) < TOLERANCE
    tlc = apply_tlc(model, patch_size=64)
    assert error(run(tlc, outputs["tlc_input"]), outputs["tlc_output"]) < TOLERANCE


def test_output_of_the_paper_size_is_the_published_one(outputs: dict[str, torch.Tensor]) -> None:
    model = fill(M3SNet(), seed=3)
    assert error(run(model, outputs["m3snet32_input"]), outputs["m3snet32_output"]) < TOLERANCE


def test_golden_weights_follow_the_rule_that_fills_the_larger_networks() -> None:
    published = torch.load(GOLDEN / "tiny_published.pth", weights_only=True)["state_dict"]
    again = filled({name: tensor.shape for name, tensor in published.items()}, seed=1)
    assert all(torch.equal(tensor, again[name]) for name, tensor in published.items())


@pytest.mark.parametrize(
    ("dtype", "memory_format", "tolerance"),
    [
        (torch.float32, torch.channels_last, 2e-6),
        (torch.float64, torch.contiguous_format, 2e-6),
        (torch.bfloat16, torch.channels_last, 0.05),
        (torch.float16, torch.contiguous_format, 0.01),
    ],
)
def test_output_hardly_depends_on_type_and_memory(
    outputs: dict[str, torch.Tensor], dtype: torch.dtype, memory_format: torch.memory_format, tolerance: float
) -> None:
    model = apply_tlc(load_model(GOLDEN / "tiny_published.pth"), patch_size=16)
    image = outputs["tiny_input"][:1]
    expected = run(model, image)
    found = run(model.to(dtype).to(memory_format=memory_format), image.to(dtype, memory_format=memory_format))
    assert found.dtype == dtype
    assert error(found.float(), expected) < tolerance


def test_flat_images_are_finite_in_half_precision() -> None:
    model = tiny()
    for parameter in model.middle_blks.parameters():
        torch.nn.init.zeros_(parameter)  # queries and keys of length zero
    assert run(model.half(), torch.zeros(1, 3, 16, 16).half()).isfinite().all()


@pytest.mark.parametrize("size", ["M3SNet-32", "M3SNet-64"])
def test_parameters_are_the_published_ones(size: str) -> None:
    with torch.device("meta"):
        model = create_model(size)
    found = {name: list(tensor.shape) for name, tensor in to_published(model.state_dict()).items()}
    expected = json.loads((GOLDEN / f"{size.lower().replace('-', '')}_shapes.json").read_text(encoding="utf-8"))
    assert found == expected


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("M3SNet-32", 16_732_331), ("M3SNet-64", 66_355_531), ("M3SNet-S", 4_254_811), ("M3SNet-T", 1_099_571)],
)
def test_parameter_counts(size: str, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in create_model(size).parameters()) == parameters


def test_default_is_the_smaller_of_the_paper_sizes() -> None:
    with torch.device("meta"):
        assert size_name(M3SNet()) == "M3SNet-32"


# spandrel as the judge


@pytest.fixture(scope="module")
def spandrel() -> Any:
    spandrel = pytest.importorskip("spandrel")
    extra = pytest.importorskip("spandrel_extra_arches")
    extra.install(ignore_duplicates=True)
    return spandrel


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's, of what spandrel uses
@pytest.mark.parametrize(
    "config",
    [SIZES["M3SNet-32"], {"width": 16, "enc_blk_nums": (1, 2, 1, 3), "dec_blk_nums": (2, 1, 1, 1)}],
    ids=["M3SNet-32", "uneven"],
)
def test_spandrel_recognises_and_agrees(spandrel: Any, config: dict[str, Any], tmp_path: Path) -> None:
    model = fill(M3SNet(**config))
    save_weights(model, tmp_path / "model.safetensors")
    descriptor = spandrel.ModelLoader(device="cpu").load_from_file(tmp_path / "model.safetensors")
    assert descriptor.architecture.id == "M3SNet"
    image = torch.rand(1, 3, 37, 53, generator=torch.Generator().manual_seed(0))
    padded = run(descriptor.model, image)  # it returns the padding too
    assert padded.shape[-2:] == (48, 64)
    assert error(run(model, image), padded[..., :37, :53]) < TOLERANCE
    restored = run(model, image[..., :32, :48])
    difference = (restored.clamp(0, 1) - run(descriptor, image[..., :32, :48])).abs().max()
    assert difference < TOLERANCE * restored.abs().max()  # rounding goes with what was clamped


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_without_additions_it_is_nafnet(spandrel: Any, tmp_path: Path) -> None:
    model = tiny(ffm=False, mhamb=False, middle_blk_num=2)
    save_weights(model, tmp_path / "model.safetensors")
    descriptor = spandrel.ModelLoader(device="cpu").load_from_file(tmp_path / "model.safetensors")
    assert descriptor.architecture.id == "NAFNet"
    image = torch.rand(1, 3, 21, 40, generator=torch.Generator().manual_seed(0))
    assert error(run(model, image), run(descriptor.model, image)) < TOLERANCE


# Sizes of images


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (15, 17), (16, 16), (33, 1)])
def test_any_size_is_padded_with_zeros_and_cropped(height: int, width: int) -> None:
    model = tiny()
    image = torch.rand(2, 3, height, width)
    padded = torch.zeros(2, 3, -(-height // 16) * 16, -(-width // 16) * 16)
    padded[..., :height, :width] = image
    found = run(model, image)
    assert found.shape == image.shape
    assert torch.allclose(found, run(model, padded)[..., :height, :width], atol=1e-5)


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (torch.zeros(1, 1, 16, 16), "1 x 1 x 16 x 16 torch.float32"),
        (torch.zeros(1, 4, 16, 16), "1 x 4 x 16 x 16"),
        (torch.zeros(3, 16, 16), "found 3 x 16 x 16"),
        (torch.zeros(1, 3, 1, 16, 16), "1 x 3 x 1 x 16 x 16"),
        (torch.zeros(()), "a scalar"),
        (torch.zeros(0, 3, 16, 16), "0 x 3 x 16 x 16"),
        (torch.zeros(1, 3, 0, 16), "1 x 3 x 0 x 16"),
        (torch.zeros(1, 3, 16, 0), "1 x 3 x 16 x 0"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.int64), "torch.int64"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.complex64), "torch.complex64"),
    ],
)
def test_other_images_are_refused(image: torch.Tensor, shown: str) -> None:
    with pytest.raises(ValueError, match="expects N x 3 x H x W floating point") as refused:
        tiny()(image)
    assert shown in str(refused.value)


def test_other_channel_counts() -> None:
    model = tiny(img_channel=1)
    assert run(model, torch.rand(1, 1, 20, 20)).shape == (1, 1, 20, 20)
    with pytest.raises(ValueError, match="expects N x 1 x H x W"):
        model(torch.zeros(1, 3, 16, 16))


# Parts


def test_new_blocks_are_the_identity() -> None:
    x = torch.randn(2, 8, 5, 7)
    assert torch.equal(NAFBlock(8)(x), x)
    fine, coarse = torch.randn(1, 4, 6, 8), torch.randn(1, 8, 3, 4)
    ffm = FFM(4)
    assert torch.equal(ffm(fine, coarse), fine + ffm.up(coarse))


def test_attention_mixes_channels_by_heads_and_not_pixels() -> None:
    torch.manual_seed(0)
    attention = MHAMB(16, num_heads=4)
    torch.nn.init.normal_(attention.temperature)
    x = torch.randn(2, 16, 3, 5)
    q, k, v = attention.qkv_dwconv(attention.qkv(x)).chunk(3, dim=1)
    expected = torch.zeros_like(x)
    for n in range(2):
        for i in range(16):
            head = i // 4
            others = range(4 * head, 4 * head + 4)
            scores = torch.stack([
                (q[n, i] * k[n, j]).sum() / q[n, i].norm() / k[n, j].norm() * attention.temperature[head, 0, 0]
                for j in others
            ])
            weights = scores.exp() / scores.exp().sum()
            expected[n, i] = sum(w * v[n, j] for w, j in zip(weights, others, strict=True))
    assert torch.allclose(attention(x), attention.project_out(expected), atol=1e-6)


def test_heads_must_divide_channels() -> None:
    with pytest.raises(ValueError, match="8 heads do not divide 12 channels"):
        MHAMB(12)
    with pytest.raises(ValueError, match="8 heads do not divide 12 channels"):
        M3SNet(width=3, enc_blk_nums=(1, 1), dec_blk_nums=(1, 1))


def test_second_row_reads_the_first() -> None:
    """f_i = FFM(e_i, e_{i+1}), g_i = FFM(f_i, f_{i+1}), skips g_0, g_1, f_2, e_3: seen from outside, by the inputs."""
    model = tiny()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    made: list[torch.Tensor] = []
    levels: list[torch.Tensor] = []
    into: list[torch.Tensor] = []
    for ffm in model.ffms:
        ffm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
        ffm.register_forward_hook(lambda _, __, output: made.append(output))
    for encoder in model.encoders:
        encoder.register_forward_hook(lambda _, __, output: levels.append(output))
    for up, decoder in zip(model.ups, model.decoders, strict=True):
        up.register_forward_hook(lambda _, __, output: into.append(-output))
        decoder.register_forward_pre_hook(lambda _, inputs: into.append(into.pop() + inputs[0]))
    run(model, torch.rand(1, 3, 32, 32))
    e, f, g = levels, made[:3], made[3:]
    expected = [(e[0], e[1]), (e[1], e[2]), (e[2], e[3]), (f[0], f[1]), (f[1], f[2])]
    assert all(a is c and b is d for (a, b), (c, d) in zip(seen, expected, strict=True))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(into, [e[3], f[2], g[1], g[0]], strict=True))


# Variants


def test_ablations() -> None:
    names = set(tiny().state_dict())
    assert {name for name in names if not name.startswith("ffms.")} == set(tiny(ffm=False).state_dict())
    plain = tiny(mhamb=False)
    assert isinstance(plain.middle_blks[0], NAFBlock)
    assert isinstance(tiny().middle_blks[0], MHAMB)
    image = torch.rand(1, 3, 20, 20)
    for model in (tiny(ffm=False), plain, tiny(ffm=False, mhamb=False)):
        assert run(model, image).shape == image.shape
        assert size_name(model) is None
    ablated = create_model("M3SNet-T", ffm=False, mhamb=False)
    assert (ablated.config["ffm"], ablated.config["mhamb"], size_name(ablated)) == (False, False, None)
    deeper = create_model("M3SNet-T", enc_blk_nums=(2, 1, 1, 3))
    assert [len(list(blocks.children())) for blocks in deeper.encoders] == [2, 1, 1, 3] and size_name(deeper) is None
    with pytest.raises(ValueError, match=r"encoder \(2, 1\) and decoder \(1, 1, 1, 1\) differ in levels"):
        create_model("M3SNet-T", enc_blk_nums=(2, 1))


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
def test_other_numbers_of_levels(levels: int) -> None:
    model = fill(M3SNet(width=8, enc_blk_nums=(1,) * levels, dec_blk_nums=(1,) * levels))
    assert len(model.ffms) == max(0, levels - 1) + max(0, levels - 2)
    image = torch.rand(1, 3, 9, 18)
    assert run(model, image).shape == image.shape


def test_levels_of_encoder_and_decoder_must_agree() -> None:
    with pytest.raises(ValueError, match=r"encoder \(1, 1\) and decoder \(1, 1, 1\) differ in levels"):
        M3SNet(width=8, enc_blk_nums=(1, 1), dec_blk_nums=(1, 1, 1))


def test_named_sizes_know_their_names() -> None:
    with torch.device("meta"):
        assert all(size_name(create_model(name)) == name for name in SIZES)
    with pytest.raises(ValueError, match=r"no network size 'M3SNet-16'; there are M3SNet-32"):
        create_model("M3SNet-16")


def test_every_parameter_is_trained() -> None:
    model = tiny().train()
    model(torch.rand(1, 3, 24, 24)).square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_names_change_back_and_forth() -> None:
    state = tiny().state_dict()
    assert list(from_published(to_published(state))) == list(state)
