import pytest
from pydantic import TypeAdapter, ValidationError

from router.settings.section import Seconds, Section, Variable


class Branch(Section):
    pause_s: Seconds = 1


def test_a_section_takes_only_what_it_knows_and_keeps_it() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Branch.model_validate({"paus_s": 1})
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Branch(), "pause_s", 2)  # noqa: B010 - what types forbid


@pytest.mark.parametrize("pause_s", [0, -1, 86401, "soon"])
def test_times_are_more_than_none_and_no_longer_than_a_day(pause_s: object) -> None:
    with pytest.raises(ValidationError):
        Branch.model_validate({"pause_s": pause_s})
    assert Branch(pause_s=86400).pause_s == 86400


@pytest.mark.parametrize("name", ["sk-s3cret", "1KEY", "", "A B"])
def test_a_secret_in_place_of_its_variable_is_refused(name: str) -> None:
    variables = TypeAdapter[str](Variable)
    assert variables.validate_python("ENGINE_KEY_2") == "ENGINE_KEY_2"
    with pytest.raises(ValidationError, match="must be the name of an environment variable"):
        variables.validate_python(name)
