"""M3SNet and the Hugging Face Hub: `save_pretrained`, `from_pretrained`, `push_to_hub`.

    PretrainedM3SNet.of(load_model("derain")).save_pretrained("derain")  # or push_to_hub("somebody/derain")
    model = PretrainedM3SNet.from_pretrained("derain")

A module of its own, because huggingface_hub takes as long to import as a photograph to restore.
"""
from __future__ import annotations

from typing import Any

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

    Args:
        patch_size: side in pixels of the patches that it was trained on; TLC's windows follow from it.
        **sizes: the arguments of M3SNet.
    """

    def __init__(self, patch_size: int | None = None, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.patch_size = patch_size

    @classmethod
    def of(cls, model: M3SNet) -> PretrainedM3SNet:
        """A copy of a network, in eval mode."""
        copy = cls(**model.config, patch_size=model.patch_size)
        copy.load_state_dict(model.state_dict())
        return copy.eval()
