"""The package as others get it: the wheel, in a virtual environment with nothing of this repository on its path."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).parent / "uv"


@dataclass(frozen=True)
class WheelEnvironment:
    """A virtual environment with ``django-choreography[test]`` in it, of the versions this repository has locked."""

    wheel: Path
    folder: Path
    """The virtual environment."""

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def environment(self, **variables: str) -> dict[str, str]:
        """Environment variables with which its programs come first, and nothing leads back to this repository."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        path = f"{self.folder / 'bin'}:{os.environ.get('PATH', os.defpath)}"
        return {**kept, "PATH": path, "VIRTUAL_ENV": str(self.folder), **variables}

    def run(self, *command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program, such as ``"python", "manage.py", "check"``, and capture what it prints."""
        # subprocess looks for the program on this process's PATH, not on that of ``env``.
        program = self.folder / "bin" / command[0]
        return subprocess.run(
            [program if program.exists() else command[0], *command[1:]],
            cwd=cwd,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def succeed(self, *command: str | Path, cwd: Path, **variables: str) -> str:
        """As ``run``; returns what was printed.

        Raises:
            AssertionError: the exit code is not 0.
        """
        result = self.run(*command, cwd=cwd, **variables)
        assert result.returncode == 0, f"{command}:\n{result.stdout}{result.stderr}"
        return result.stdout

    def install(self, *requirements: str) -> None:
        """Install more, such as ``django-choreography[postgresql]``, of the locked versions."""
        _uv("pip", "install", "--python", self.python, "--constraints", ROOT / "requirements-dev.txt", *requirements)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of ``django-choreography``, built from this tree as ``make package`` does."""
    folder = tmp_path_factory.mktemp("dist")
    _uv("build", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder, ROOT / "choreography")
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def wheel_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> WheelEnvironment:
    """A virtual environment with the wheel in it. Tests may install more, and change nothing else."""
    environment = WheelEnvironment(wheel, tmp_path_factory.mktemp("wheel") / "venv")
    _uv("venv", "--python", sys.executable, environment.folder)
    environment.install(f"django-choreography[test] @ {wheel.as_uri()}")
    return environment


def _uv(*arguments: str | Path) -> None:
    result = subprocess.run([UV, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
