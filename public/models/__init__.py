"""Networks.  `create_model` builds a published one by name; experiments build theirs from their settings."""

from dataclasses import replace


def create_model(name: str, *, num_classes: int, **changes):
    """A new network with the published settings called `name`, in train mode, with its initial values.

    The initial values come from torch's global generator.  `changes` replaces further fields of the settings.
    ValueError for an unknown name, TypeError for an unknown field.
    """
    from public.families import published  # here, so that no network depends on a family at import

    return replace(published(name), num_classes=num_classes, **changes).build_model()


def list_models() -> list[str]:
    """The names that `create_model` knows, sorted."""
    from public.families import PUBLISHED

    return sorted(PUBLISHED)
