"""The public names of jang: a change here is a change for users."""

import jang


def test_the_public_names_are_these_and_all_exist() -> None:
    assert sorted(jang.__all__) == NAMES
    for name in jang.__all__:
        assert getattr(jang, name) is not None


NAMES = [
    "__version__",
]
