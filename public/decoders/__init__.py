"""Raw outputs -> detections.  `create_decoder` builds a published one; experiments build theirs from their settings."""

from dataclasses import replace


def create_decoder(name: str, **changes):
    """The decoder of the published settings called `name`, with the fields in `changes` replaced.

    ValueError for an unknown name, TypeError for an unknown field.
    """
    from public.families import published  # here, so that no decoder depends on a family at import

    return replace(published(name), **changes).build_decoder()
