"""Everything that pyxs offers a client, once, against the daemon's socket (the first argument)."""

import errno
import sys
import threading

from pyxs.client import Client, Router
from pyxs.connection import UnixSocketConnection
from pyxs.exceptions import PyXSError

PATH = sys.argv[1]
# On a real host this is read from /proc/xen/capabilities.
Client.SU = True


def fails(number, act, *args):
    try:
        act(*args)
    except PyXSError as error:
        assert error.args[0] == number, (error, act, args)
    else:
        raise AssertionError((act, args))


def values():
    with Client(PATH) as c:
        c.write(b"/py/a", b"1")
        assert c.read(b"/py/a") == b"1"
        c[b"/py/b"] = b"2"
        assert c[b"/py/b"] == b"2"
        assert c.read(b"/py/none", b"default") == b"default"
        fails(errno.ENOENT, c.read, b"/py/none")
        c.mkdir(b"/py/d/e")
        assert c.list(b"/py") == [b"a", b"b", b"d"]
        assert c.list(b"/py/d/e") == []
        assert c.exists(b"/py/d/e") and not c.exists(b"/py/d/f")
        walked = list(c.walk(b"/py"))
        assert walked == [
            (b"/py", b"", [b"a", b"b", b"d"]),
            (b"/py/a", b"1", []),
            (b"/py/b", b"2", []),
            (b"/py/d", b"", [b"e"]),
            (b"/py/d/e", b"", []),
        ], walked
        del c[b"/py/b"]
        c.delete(b"/py/d")
        assert c.list(b"/py") == [b"a"]
        fails(errno.ENOENT, c.delete, b"/nothing/here")
        # A value that fills a message.
        big = b"x" * (4096 - len(b"/py/big\0"))
        c.write(b"/py/big", big)
        assert c.read(b"/py/big") == big


def permissions():
    with Client(PATH) as c:
        c.write(b"/perm/a", b"1")
        assert c.get_perms(b"/perm/a") == [b"n0"]
        c.set_perms(b"/perm/a", [b"b4", b"r5", b"w6"])
        assert c.get_perms(b"/perm/a") == [b"b4", b"r5", b"w6"]
        fails(errno.ENOENT, c.set_perms, b"/perm/none", [b"n0"])


def transactions():
    with Client(PATH) as c, Client(PATH) as other:
        assert c.transaction() > 0
        fails(errno.EALREADY, c.transaction)
        c.write(b"/tx/a", b"1")
        assert not other.exists(b"/tx/a")
        assert c.commit()
        assert other.read(b"/tx/a") == b"1"

        c.transaction()
        c.write(b"/tx/a", b"2")
        c.rollback()
        assert c.read(b"/tx/a") == b"1"

        c.transaction()
        assert c.read(b"/tx/a") == b"1"
        other.write(b"/tx/a", b"3")
        c.write(b"/tx/b", b"from 1")
        assert not c.commit()
        assert not c.exists(b"/tx/b")
        # Without a transaction there is none to end.
        fails(errno.ENOENT, c.rollback)


def monitors():
    with Client(PATH) as c, Client(PATH) as other:
        with c.monitor() as m:
            m.watch(b"/mon", b"token")
            assert m.watched == {b"/mon"}
            events = m.wait()
            # A new watch fires at once; pyxs gives the first event back like any other.
            assert tuple(next(events)) == (b"/mon", b"token")
            other.write(b"/mon/a", b"1")
            assert tuple(next(events)) == (b"/mon/a", b"token")
            fails(errno.EEXIST, m.watch, b"/mon", b"token")
            m.unwatch(b"/mon", b"token")
            fails(errno.ENOENT, m.unwatch, b"/mon", b"token")
        with c.monitor() as m:
            m.watch(b"@introduceDomain", b"came")
            m.watch(b"@releaseDomain", b"went")
            events = m.wait()
            assert [next(events).token, next(events).token] == [b"came", b"went"]
            other.introduce_domain(31, 1, 2)
            assert next(events).path == b"@introduceDomain"
            other.release_domain(31)
            assert next(events).path == b"@releaseDomain"


def domains():
    with Client(PATH) as c:
        assert c.get_domain_path(33) == b"/local/domain/33"
        assert not c.is_domain_introduced(33)
        c.introduce_domain(33, 1, 2)
        assert c.is_domain_introduced(33)
        c.introduce_domain(34, 1, 2)
        c.set_target(34, 33)
        c.resume_domain(33)
        c.release_domain(33)
        assert not c.is_domain_introduced(33)
        c.release_domain(34)


def threads():
    """Several clients and monitors of several threads share one connection."""
    router = Router(UnixSocketConnection(PATH))
    failures = []

    def work(number):
        try:
            client = Client(router=router)
            path = b"/threads/%d" % number
            monitor = client.monitor()
            monitor.watch(path, b"t%d" % number)
            events = monitor.wait()
            assert next(events).path == path
            for count in range(100):
                client.write(path, b"%d" % count)
                assert client.read(path) == b"%d" % count
                assert next(events).path == path
            monitor.close()
        except BaseException as error:
            failures.append((number, repr(error)))
            raise

    router.start()
    workers = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    router.terminate()
    assert not failures, failures


for test in (values, permissions, transactions, monitors, domains, threads):
    test()
    print(test.__name__)
