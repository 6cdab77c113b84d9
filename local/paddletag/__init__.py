"""Audio classification and audio tagging on PaddlePaddle.

`events` finds what sounds when, `tag` labels a sound, `load_model` keeps a model for many sounds; `create_model` and
`list_models` are for training.
The parts: data, features, models, tagging, training, reports; commands are what `paddletag` and the scripts run.
"""

TYPE_CHECKING = False  # type checkers take it for true

if TYPE_CHECKING:
    from paddletag.data.audio import AudioError
    from paddletag.models.registry import create_model, list_models
    from paddletag.runtime import UserError
    from paddletag.tagging.tagger import Tagger, events, load_model, tag

__version__ = "0.1.0"
__all__ = ["AudioError", "Tagger", "UserError", "create_model", "events", "list_models", "load_model", "tag"]

_MODULES = {  # where the public names are: imported when they are asked for, since some import paddle
    "AudioError": "data.audio",
    "Tagger": "tagging.tagger",
    "UserError": "runtime",
    "create_model": "models.registry",
    "events": "tagging.tagger",
    "list_models": "models.registry",
    "load_model": "tagging.tagger",
    "tag": "tagging.tagger",
}


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'paddletag' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"paddletag.{_MODULES[name]}"), name)
