"""M3SNet and the Hugging Face Hub: `save_pretrained`, `from_pretrained`, `push_to_hub`.

    PretrainedM3SNet.of(load_model("derain")).save_pretrained("derain")  # or push_to_hub("somebody/derain")
    model = PretrainedM3SNet.from_pretrained("derain")

A module of its own, because huggingface_hub takes as long to import as a photograph to restore.
"""
from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import PyTorchModelHubMixin

from .m3snet import M3SNet


class PretrainedM3SNet(
    M3SNet,
    PyTorchModelHubMixin,
    library_name="m3snet",
    license="mit",
    pipeline_tag="image-to-image",
    tags=["image-restoration", "deraining", "deblurring"],
):
    """An M3SNet whose sizes and training patch lie beside its weights; see huggingface_hub's PyTorchModelHubMixin.

    Args: those of M3SNet, and the side in pixels of the patches that it was trained on: TLC's windows follow from it.
    """

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 32,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (1, 1, 1, 28),
        dec_blk_nums: Sequence[int] = (1, 1, 1, 1),
        ffm: bool = True,
        mhamb: bool = True,
        patch_size: int | None = None,
    ) -> None:
        super().__init__(img_channel, width, middle_blk_num, enc_blk_nums, dec_blk_nums, ffm, mhamb)
        self.patch_size = patch_size

    @classmethod
    def of(cls, model: M3SNet) -> PretrainedM3SNet:
        """A copy of a network, in eval mode."""
        copy = cls(**model.config, patch_size=model.patch_size)
        copy.load_state_dict(model.state_dict())
        return copy.eval()
