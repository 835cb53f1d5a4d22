"""The claims of the five papers that this project tests, with what each paper reports where that could be read.

Sources: FS Miech et al., CVPR 2021 (arXiv 2103.16553); VD Zhang et al., Knowledge-Based Systems 2022 (2110.11338);
RR Geigle et al., TACL 2022 (2103.11920); HV Chen et al., 2022 (2205.12105); LP Lei et al., 2022 (2203.05465).
"no figure seen": the claim is the paper's, its number was not to be had; abstracts and tables that were are quoted.
"""

from dataclasses import dataclass

SYSTEMS = {
    "FS": ("Thinking Fast and Slow", "demo-fast-slow"),
    "VD": ("VLDeformer", "demo-vldeformer"),
    "RR": ("Retrieve Fast, Rerank Smart", "demo-cooperative"),
    "HV": ("HiVLP", "demo-hivlp"),
    "LP": ("LoopITR", "demo-loopitr"),
}
"""Letters of a claim's id -> the system, and its model of the demo."""


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper that a number can decide.

    Attributes:
      id: letters of the system and a number.
      says: the claim.
      paper: its figure there.
      bound: what our number must be for it to hold.
    """

    id: str
    says: str
    paper: str
    bound: str

    @property
    def system(self) -> str:
        """Letters of the system."""
        return self.id[:2]


NOT_SEEN = "no figure seen"

CLAIMS: dict[str, Claim] = {
    one.id: one
    for one in (
        Claim("FS1", "Slow beats Fast", NOT_SEEN, "R@1 of all pairs by slow - R@1 of fast > 5"),
        Claim("FS2", "distillation helps Fast", NOT_SEEN, "R@1 of fast, distilled - plain > 0"),
        Claim(
            "FS3", "distillation makes the shortlist shorter", NOT_SEEN, "K for 95 % of the gain: distilled <= plain"
        ),
        Claim(
            "FS4",
            "few candidates recover Slow",
            '"several orders of magnitude" faster',
            "R@1 at K = 10 of 1,000 >= all pairs - 1",
        ),
        Claim(
            "FS5", "the sum is at least as good as either", NOT_SEEN, "R@1 of slow + beta fast - the better one >= 0"
        ),
        Claim("FS6", "fine-grained maps help", NOT_SEEN, "R@1 of slow, finer maps - coarse map alone > 0"),
        Claim("FS7", "both reading directions help", NOT_SEEN, "R@1 of slow, both directions - forward alone >= 0"),
        Claim("VD1", "decomposition keeps accuracy", "mR falls by less than 0.6", "mR, all pairs - decomposed <= 3"),
        Claim("VD2", "what pairs taught is what matters", NOT_SEEN, "mR, decomposed - from scratch, equal steps > 0"),
        Claim(
            "VD3",
            "vectors are cheaper by the count of passes",
            '"1000+ times acceleration"',
            "wall clock within a factor of 2 of Q N / (Q + N)",
        ),
        Claim("VD4", "InfoNCE is better than a shifted triplet", NOT_SEEN, "mR, InfoNCE - triplet, equal steps > 0"),
        Claim("VD5", "larger batches help", "batch of 1,800", "mR rises with the batch, equal steps"),
        Claim("RR1", "reranking with the same weights helps", "+2.2 R@1 (COCO 5K)", "R@1 of JOIN, reranked - twin > 0"),
        Claim(
            "RR2",
            "20 candidates are as good as all",
            "+0.2 R@1 (COCO 5K, SEP)",
            "R@1 at K = 20 - all pairs >= -0.5",
        ),
        Claim("RR3", "flat in K", "54.8, 54.7, 54.6 at K = 10, 20, 50", "R@1 over K = 10, 20, 50: spread <= 0.5"),
        Claim("RR4", "one model instead of two", "54.7 (JOIN), 52.8 (SEP)", "half the parameters, mR >= SEP - 1"),
        Claim(
            "RR5",
            "the twin's score adds little to the cross encoder's",
            "76.4 alone, 76.7 at lambda 0.1, 74.6 at 0.9 (Flickr30K)",
            "best lambda adds <= 1 to R@1; lambda 0.9 adds nothing",
        ),
        Claim(
            "RR6",
            "all pairs cost N / K times the candidates",
            "120 times (COCO 5K, K = 20)",
            "wall clock within a factor of 2 of N / K",
        ),
        Claim("RR7", "what reranking gains stays in a larger gallery", NOT_SEEN, "gain at 10 N >= half of that at N"),
        Claim("HV1", "coarse to fine is as good as fine", NOT_SEEN, "R@1, K_1 = N / 10 - flat >= -0.5"),
        Claim(
            "HV2",
            "cheaper, the more so the larger the gallery",
            "2 to 5 times faster than LightningDOT",
            "flat / coarse to fine in milliseconds rises with N and is > 1 at 100,000",
        ),
        Claim("HV3", "the coarse level alone is worse", NOT_SEEN, "R@1 of the finest - the coarsest level > 0"),
        Claim("HV4", "the hierarchy is free", NOT_SEEN, "R@1 of the finest level, trained jointly - alone >= -0.5"),
        Claim(
            "HV5",
            "what coarse search finds is what counts",
            NOT_SEEN,
            "R@1, flat - coarse to fine <= 100 - R@K_1 of the coarsest level",
        ),
        Claim(
            "HV6",
            "no pair is evaluated",
            "1,427 to 120,649 times faster than UNITER",
            "pair evaluations a query: 0, against N",
        ),
        Claim("LP1", "distillation lifts the dual encoder", "+3.8 R@1 (COCO val)", "R@1 of fast, distilled - not > 0"),
        Claim(
            "LP2", "a few negatives are enough", NOT_SEEN, "more than half of what m = 4 gains over 1 comes by m = 2"
        ),
        Claim("LP3", "negatives mined by the dual help the cross encoder", NOT_SEEN, "R@1 of slow, mined - random > 0"),
        Claim(
            "LP4",
            "the best 16 are as good as all",
            "83.4 at 16, 83.1 of all (Flickr30K)",
            "R@1 at K = 16 within 0.5 of all pairs",
        ),
        Claim(
            "LP5",
            "joint training does not hurt the cross encoder",
            NOT_SEEN,
            "R@1 of slow, joint - without the contrast >= -0.5",
        ),
        Claim("LP6", "cross beats dual in one network", "+6.2 R@1 (Flickr30K)", "R@1 of slow - fast > 0"),
        Claim("LP7", "the stop-gradient matters", NOT_SEEN, "R@1 of slow, with - without > 0"),
    )
}
