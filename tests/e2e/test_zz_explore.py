import pytest, subprocess
from tests.support.failures import *
from tests.conftest import *

@pytest.mark.parametrize("case", FAILURES, ids=lambda c: c.id)
def test_x(case, server):
    server.settings["environment"] = ["broken", "healthy"]
    b, h = Site(server, "broken", "sEcrEt"), Site(server, "healthy")
    for s in (b, h):
        s.directory.mkdir(); s.commit(1)
    print(server.cli("sync"))
    try:
        case.happens(b); h.commit(2)
        for c in ("plan", "sync"):
            d = server.cli(c, environment=b.variables)
            print("=====", case.id, c, d.returncode); print(d.stdout, d.stderr)
        case.mended(b)
        d = server.cli("sync", environment=b.variables)
        print("===== mended", d.returncode); print(d.stdout, d.stderr)
    finally:
        if case.id == "disk-full": subprocess.run(["umount", b.directory])
