"""A subnet of one's own: long ranges are paid more, and probes repeat themselves.

A client waits for a round trip at every hop, so this subnet moves pay from hosters of short ranges
to those of long ones, without paying more in all. Integers in, integers out: floats differ between
machines, and then nobody attests.
"""

import random


def score(hosters):
    """Divide what the built-in rule pays anew: by pay times number of layers."""
    pot = sum(hoster.built_in for hoster in hosters)
    weights = [hoster.built_in * (hoster.end - hoster.start) for hoster in hosters]
    return [pot * weight // max(1, sum(weights)) for weight in weights]


class Probe:
    """Asks the same few tokens twice over: caches of prefixes must not change an answer."""

    def make_prompt(self, draw, vocab_size, max_tokens):
        """Return token ids. ``draw`` is a secret random number of the validator."""
        dice = random.Random(draw)
        part = [dice.randrange(vocab_size) for _ in range(min(12, max_tokens // 2))]
        return part + part

    def is_wrong(self, prompt, answer, distance_ppm):
        """An answer may lie 5 % from what another route says of it, and is not empty."""
        return not answer or distance_ppm > 50_000


probe = Probe()
