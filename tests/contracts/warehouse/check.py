"""Check this repository against the publishers' bundle, without Django: python check.py BUNDLE.

Has ``pick.py`` read every golden message of the events that the file of readers names. Exit code 1 with a line for each
that it can't read.
"""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

events = json.loads(Path(sys.argv[1]).read_text())["events"]
[reads] = json.loads((HERE / "contracts" / "readers" / "warehouse.json").read_text())["reads"]
failed = False
for event_type in reads["event_types"]:
    if event_type not in events:
        sys.exit(f"{event_type} is announced no more")
    for name, message in events[event_type]["examples"].items():
        picked = subprocess.run(
            [sys.executable, str(HERE / "pick.py")], input=json.dumps(message), capture_output=True, text=True
        )
        if picked.returncode or not picked.stdout:
            failed = True
            reason = (picked.stderr or "nothing was picked").strip().splitlines()[-1]
            sys.stdout.write(f"{event_type}, golden message {name}: {reason}\n")
sys.exit(1 if failed else 0)
