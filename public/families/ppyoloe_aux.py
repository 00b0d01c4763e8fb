"""PPYOLOE+ with an auxiliary head: the settings of the tiny model, and how network and loss are built from them.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250; the auxiliary head is PaddleDetection's.
"""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from public.families.ppyoloe import PPYOLOE, crn_coco
from public.losses.ppyoloe_aux import PPYOLOEAuxLoss
from public.models.backbone import Backbone
from public.models.detectors.ppyoloe_aux import PPYOLOEAuxHead, PPYOLOEAuxModel
from public.settings import Count, GoesWithEpochs, Natural, Positive


@dataclass(frozen=True, kw_only=True)
class PPYOLOEAux(PPYOLOE):
    """Every number of a PPYOLOE with an auxiliary neck and head that decides a result."""

    head_attention: Literal["conv", "repvgg"]  # convolution of the head's attention: conv (1x1) or repvgg
    aux_channels: Count  # of the auxiliary head's branches, whatever the width
    aux_detach_epoch: Annotated[
        Natural, GoesWithEpochs()
    ]  # from then on backbone and neck learn nothing from the branch
    tal_centre_radius: Positive  # an object claims points nearer than this to its centre, in strides

    def build_model(self, *, in_chans: int = 3, backbone: Backbone | None = None) -> PPYOLOEAuxModel:
        """A new network in train mode; see `PPYOLOE.build_model`."""
        parts = self._parts(in_chans, attention=self.head_attention, backbone=backbone)
        widths = set(parts["neck"].out_channels)
        if len(widths) > 1:
            raise ValueError(
                f"the auxiliary head is one for all levels, but the neck's widths differ: {parts['neck'].out_channels}; "
                f"give equal neck_channels instead of {self.neck_channels}"
            )
        aux_head = PPYOLOEAuxHead(
            in_channels=2 * widths.pop(),
            channels=self.aux_channels,
            num_levels=len(self.strides),
            num_classes=self.num_classes,
            reg_max=self.reg_max,
        )
        return PPYOLOEAuxModel(**parts, aux_head=aux_head)

    def build_loss(self) -> PPYOLOEAuxLoss:
        return PPYOLOEAuxLoss(**self._loss_settings(centre_radius=self.tal_centre_radius))

    def on_epoch(self, model: Any, epoch: int) -> None:
        """Called before each epoch, counted from 0, and when a run is resumed: detaches the auxiliary branch or not."""
        model.is_detached = epoch >= self.aux_detach_epoch


def _crn_tiny_coco() -> PPYOLOEAux:
    """PaddleDetection's ppyoloe_plus_crn_t_auxhead_300e_coco."""
    settings = asdict(crn_coco(depth=0.33, width=0.375))
    settings.update(
        use_alpha=True,
        neck_channels=(384, 384, 384),
        head_attention="repvgg",
        aux_channels=288,
        aux_detach_epoch=5,
        tal_centre_radius=2.0,
    )
    return PPYOLOEAux(**settings)


PUBLISHED = {"ppyoloe_plus_t": _crn_tiny_coco()}
