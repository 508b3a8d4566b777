"""Of all that Envoy prints when it refuses a configuration, one line is kept."""

from __future__ import annotations

import pytest

from xds_server.validation.dry_run import essence

BEGINNING = "error initializing configuration '/tmp/x/bootstrap.pb': "
DUMP = "goo.gle/debugproto   \nstatic_resources {\n  clusters {\n  }\n}\n"
CASES = [
    (f"{BEGINNING}Sum of weights must be greater than 0.\n", "Sum of weights must be greater than 0."),
    (
        f"{BEGINNING}{DUMP}: Proto constraint validation failed (BootstrapValidationError.StaticResources: embedded "
        "message failed validation | caused by StaticResourcesValidationError.Clusters[0]: embedded message failed "
        "validation | caused by ClusterValidationError.Name: value length must be at least 1 characters)\n",
        "StaticResources.Clusters[0].Name: value length must be at least 1 characters",
    ),
    (
        f"{BEGINNING}{DUMP}: Proto constraint validation failed (ClusterValidationError.HealthChecks[0]: embedded "
        'message failed validation | caused by field: "health_checker", reason: is required)\n',
        "HealthChecks[0].health_checker: is required",
    ),
    (f"{BEGINNING}Proto constraint validation failed (said otherwise)", "said otherwise"),
    (f"{BEGINNING}Unable to unpack as a.B: goo.gle/debugstr    \nvalue: '\\377'\n\n\n", "Unable to unpack as a.B"),
    (f"{BEGINNING}script load error:\n [string]:1:\n  bad\n", "script load error: [string]:1: bad"),
    ("some other\ncomplaint\n", "some other complaint"),
    ("x" * 1_000, "x" * 397 + "..."),
    ("", ""),
]


@pytest.mark.parametrize(("said", "line"), CASES)
def test_the_line_that_matters_is_kept(said: str, line: str) -> None:
    assert essence(said) == line
