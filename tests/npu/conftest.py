"""Every test here runs Qualcomm's compiler: skipped without it, or without its licence accepted by
PECORE_ACCEPT_QUALCOMM_LICENCE=1; failed instead if PECORE_REQUIRE_NPU=1 (as in CI)."""

import os

import pytest

from pecore.errors import InputError
from pecore.validate.npu import NpuOptions, prepare


@pytest.fixture(scope="session")
def missing() -> str | None:
    try:
        return prepare(NpuOptions(("SM8850",)))
    except InputError as error:
        return str(error)


@pytest.fixture(autouse=True)
def compiler(missing: str | None) -> None:
    if missing and os.environ.get("PECORE_REQUIRE_NPU") == "1":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
