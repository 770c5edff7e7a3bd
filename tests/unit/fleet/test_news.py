import gc

from router.fleet.news import News


class Counter:
    def __init__(self) -> None:
        self.heard = 0

    def engine_changed(self) -> None:
        self.heard += 1


def test_all_who_listen_hear_it_once() -> None:
    news, one, other = News(), Counter(), Counter()
    news.tell()
    for hearer in (one, other, one):
        news.heard_by(hearer)
    news.tell()
    assert (one.heard, other.heard, repr(news)) == (1, 1, "<News heard by 2>")


def test_listening_keeps_nobody_alive() -> None:
    news = News()
    news.heard_by(Counter())
    gc.collect()
    news.tell()
    assert repr(news) == "<News heard by 0>"
