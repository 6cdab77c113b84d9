"""How many frames an AST takes, for those who run it without paddle, which models/ast.py imports."""

TARGETS = (128, 256, 512, 1024)  # frames; of these, the original's own are 128 (1 s), 512 (5 s) and 1024 (10 s)


def target_frames(frames: int) -> int:
    """The number of frames that `frames` frames are padded to."""
    return next((target for target in TARGETS if frames <= target), frames)
