"""Several datasets as one, each with its own trust: what may be learned from it, and how often it is drawn."""

from common.sources.loading import load_sources, main_part
from common.sources.options import SourcesArgs

__all__ = ["SourcesArgs", "load_sources", "main_part"]
