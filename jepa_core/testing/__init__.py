"""What every component must do, as checks that a plugin's own tests call.

    from jepa_core.testing import check_masker, check_recipe

    def test_the_contract():
        check_masker("halves", ratio=0.5)
        check_recipe("halves/selftest")

Each `check_*` takes a class or a registered name, and settings; it raises `Failed` with every property that
does not hold. `examine` and `examine_plugin` return all properties one by one, for `jepa plugins check`.
"""

from jepa_core.testing.outcomes import Failed as Failed
from jepa_core.testing.outcomes import Outcome as Outcome
from jepa_core.testing.plugin import examine_plugin as examine_plugin
from jepa_core.testing.suites import check_encoder as check_encoder
from jepa_core.testing.suites import check_evaluation as check_evaluation
from jepa_core.testing.suites import check_masker as check_masker
from jepa_core.testing.suites import check_objective as check_objective
from jepa_core.testing.suites import check_optimizer as check_optimizer
from jepa_core.testing.suites import check_predictor as check_predictor
from jepa_core.testing.suites import check_probe as check_probe
from jepa_core.testing.suites import check_recipe as check_recipe
from jepa_core.testing.suites import check_source as check_source
from jepa_core.testing.suites import check_target_update as check_target_update
from jepa_core.testing.suites import check_variant as check_variant
from jepa_core.testing.suites import examine as examine
from jepa_core.testing.suites import examine_recipe as examine_recipe

__all__ = [
    "Failed",
    "Outcome",
    "check_encoder",
    "check_evaluation",
    "check_masker",
    "check_objective",
    "check_optimizer",
    "check_predictor",
    "check_probe",
    "check_recipe",
    "check_source",
    "check_target_update",
    "check_variant",
    "examine",
    "examine_plugin",
    "examine_recipe",
]
