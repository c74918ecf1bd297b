from __future__ import annotations

from pipeline.batch.table import BatchRecipe

BUNDLE = {"name": "a", "score_threshold": 0.5, "metrics": {"mAP": 1}, "sha256": {"pnet": "1"}}
OPTIONS = {"min_score": None, "min_face": 20.0}


def test_what_changes_a_result_changes_the_hash() -> None:
    recipe = BatchRecipe(BUNDLE, OPTIONS)
    assert recipe.hash == BatchRecipe({**BUNDLE, "name": "b", "metrics": {}, "provenance": {}}, OPTIONS).hash
    assert recipe.differs(recipe.metadata()) is None
    others = (
        BatchRecipe({**BUNDLE, "sha256": {"pnet": "2"}}, OPTIONS),
        BatchRecipe(BUNDLE, {**OPTIONS, "min_face": 21.0}),
    )
    assert len({recipe.hash, *(other.hash for other in others)}) == 3


def test_what_differs_is_said() -> None:
    recipe = BatchRecipe(BUNDLE, OPTIONS)

    def said(bundle: dict[str, object], options: dict[str, object]) -> str | None:
        return recipe.differs(BatchRecipe(bundle, options).metadata())

    assert said(BUNDLE, {**OPTIONS, "min_score": 0.3}) == "--min-score 0.3, this is no --min-score"
    assert said(BUNDLE, {**OPTIONS, "min_face": None}) == "no --min-face, this is --min-face 20.0"
    assert said({**BUNDLE, "sha256": {}, "name": "b"}, OPTIONS) == "another bundle ('b'), this is 'a'"
    assert recipe.differs({}) == "a version that this one cannot read"
