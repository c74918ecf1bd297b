from __future__ import annotations

from pipeline.batch.table import BatchRecipe

BUNDLE = {"name": "a", "score_threshold": 0.5, "metrics": {"mAP": 1}, "sha256": {"pnet": "1"}}
OPTIONS = {"min_score": None, "min_face": 20.0}


def test_only_what_changes_a_result_changes_the_hash() -> None:
    recipe = BatchRecipe(BUNDLE, OPTIONS)
    assert recipe.hash == BatchRecipe({**BUNDLE, "name": "b", "metrics": {}, "provenance": {}}, OPTIONS).hash
    assert recipe.difference(recipe.metadata()) is None
    others = (
        BatchRecipe({**BUNDLE, "sha256": {"pnet": "2"}}, OPTIONS),
        BatchRecipe(BUNDLE, {**OPTIONS, "min_face": 21.0}),
    )
    assert len({recipe.hash, *(other.hash for other in others)}) == 3


def test_the_difference_in_words() -> None:
    recipe = BatchRecipe(BUNDLE, OPTIONS)

    def difference(bundle: dict[str, object], options: dict[str, object]) -> str | None:
        return recipe.difference(BatchRecipe(bundle, options).metadata())

    assert difference(BUNDLE, {**OPTIONS, "min_score": 0.3}) == "--min-score 0.3, this is no --min-score"
    assert difference(BUNDLE, {**OPTIONS, "min_face": None}) == "no --min-face, this is --min-face 20.0"
    assert difference({**BUNDLE, "sha256": {}, "name": "b"}, OPTIONS) == "another bundle ('b'), this is 'a'"
    assert difference(BUNDLE, {**OPTIONS, "column": "front"}) == "--column front, this is no --column"
    assert recipe.difference({}) == "a version that this one cannot read"


def test_results_made_with_a_bundle_of_format_3_are_continued() -> None:
    old = {"pnet": 0.6, "again": 0.4, "min_face": 6.0}
    new = {"pnet_threshold": 0.6, "onet2_threshold": 0.4, "min_face": 6.0}
    recorded = {**BUNDLE, "format_version": 3, "search": old, "judge": {"stage1": 1.0, "mirrored": True}}
    metadata = BatchRecipe(recorded, OPTIONS).metadata()
    bundle = {**BUNDLE, "format_version": 4, "search": new, "fusion": {"detector_weight": 1.0, "flip_tta": True}}
    added = {"format_version": 5, "weights_dtype": "float32", "fusion": {**bundle["fusion"], "box_passes": 1}}
    assert BatchRecipe({**bundle, **added}, OPTIONS).difference(metadata) is None
    # The same of format 4, with the fine-tuned cascade.
    metadata4 = BatchRecipe({**bundle, "search": {"cascade": "fine-tuned", **new}}, OPTIONS).metadata()
    searched = {"search": {"cascade": "fine-tuned", "second_look": True, **new}}
    assert BatchRecipe({**bundle, **added, **searched}, OPTIONS).difference(metadata4) is None
    searched["search"]["second_look"] = False
    assert BatchRecipe({**bundle, **added, **searched}, OPTIONS).difference(metadata4) is not None
    changed = {**bundle, "search": {**new, "onet2_threshold": 0.5}, "name": "b"}
    assert BatchRecipe(changed, OPTIONS).difference(metadata) == "another bundle ('a'), this is 'b'"
