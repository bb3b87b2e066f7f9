# SPDX-License-Identifier: Apache-2.0 OR MIT
"""kelpie pool and run --pool: making, looking at, claiming from and removing pools."""

import json

from support import case, check, check_equal, wait_for


def listed(kelpie):
    return json.loads(kelpie.expect(0, "pool", "ls", "--json")[0])


@case
def pool_life(kelpie):
    check_equal(listed(kelpie), [], "before")
    check_equal(
        kelpie.expect(0, "pool", "create", "--size", "1", "--cpus", "1", "--memory", "256", "web")[0],
        b"web\n",
        "its name",
    )
    info = listed(kelpie)[0]
    check_equal((info["name"], info["size"], info["ready"], info["memory_mib"]), ("web", 1, 1, 256), "ls")
    check(b"web" in kelpie.expect(0, "pool", "ls")[0], "ls for people")
    check(b"1 of 1 wait" in kelpie.expect(0, "pool", "inspect", "web")[0], "inspect for people")
    out, err = kelpie.expect(0, "run", "--pool", "web", "--timings", "--json", "--", "hostname")
    timings = json.loads(err)
    check_equal(timings["origin"], "pool", "where the VM came from")
    check_equal(out.decode().strip(), timings["name"], "its host name")
    name = kelpie.expect(0, "pool", "claim", "--wait", "30s", "--lease", "60s", "web")[0].decode().strip()
    kelpie.expect(0, "exec", name, "--", "true")
    check_equal(kelpie.expect(0, "pool", "renew", "--lease", "500ms", name)[0].decode().strip(), name, "renew")
    kelpie.wait_until_gone(name)
    check_equal(kelpie.expect(0, "pool", "rm", "web")[0], b"web\n", "rm")
    check_equal(listed(kelpie), [], "after")
    wait_for(lambda: set(kelpie.states()) <= {kelpie.vm}, 10, "members are left")


@case
def pool_mistakes(kelpie):
    kelpie.refuse(["--size"], "pool", "create", "web")
    kelpie.refuse(["1 to 256"], "pool", "create", "--size", "1000", "web")
    kelpie.refuse(["--size", "usage: kelpie pool ls"], "pool", "ls", "--size", "3")
    kelpie.refuse(["pool claim"], "pool", "clam", "web")
    kelpie.refuse(["none-such"], "pool", "rm", "none-such")
    kelpie.refuse(["none-such"], "run", "--pool", "none-such", "--", "true")
    kelpie.refuse(["--cpus", "--pool"], "run", "--pool", "web", "--cpus", "2", "--", "true")
    kelpie.refuse(["--pool"], "run", "--lease", "5s", "--", "true")
    kelpie.refuse(["--lease"], "pool", "renew", "web")
