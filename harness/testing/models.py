"""What a model plugin has to keep: everything that the benchmark does to a network, tried beforehand."""

from __future__ import annotations

from harness.testing import model_output, model_state
from harness.testing.model_case import CLASSES, ModelCase
from harness.testing.rules import Rule, description_rule, pickling_rule, side_effect_rules

__all__ = ["RULES", "ModelCase"]


def _build(case: object) -> object:
    assert isinstance(case, ModelCase)
    return case.spec.build(CLASSES)


RULES: tuple[Rule, ...] = (
    model_output.builds,
    model_output.gives_logits,
    model_output.any_batch,
    model_output.any_resolution,
    model_output.is_finite,
    model_output.has_gradients,
    model_output.eval_repeats,
    model_output.eval_independent,
    model_state.eval_keeps_state,
    model_state.train_keeps_weights,
    model_state.is_seeded,
    model_state.state_dict_is_all,
    model_state.pickles,
    pickling_rule("model"),
    model_state.in_budget,
    model_state.is_float32,
    model_state.any_layout,
    model_state.deploys,
    model_state.exports,
    *side_effect_rules("model", "building the model", _build),
    description_rule("model", "A result without its source can't be cited or checked.", ("paper",)),
)
