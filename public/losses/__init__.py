"""Raw outputs and targets -> loss terms.  `create_loss` builds a published one; experiments use their settings."""

from dataclasses import replace


def create_loss(name: str, *, num_classes: int, **changes):
    """The loss of the published settings called `name` for `num_classes`, with the fields in `changes` replaced.

    ValueError for an unknown name, TypeError for an unknown field.
    """
    from public.families import published  # here, so that no loss depends on a family at import

    return replace(published(name), num_classes=num_classes, **changes).build_loss()
