//! Blind side-by-sides. A contestant is an adapter, at the scale that it is served at, or, where none is named, the base model alone.

use thumbprint::arena::{self, Contestant};
use thumbprint::{AdapterId, MatchId, ReplyId};

use super::{GenerateOptions, Interval, Message, StopReason, Verdict};
use crate::translate::{Translate, choice, record};

impl Translate<Option<AdapterId>> for Contestant {
    fn translate(self) -> Option<AdapterId> {
        self.adapter()
    }
}

/// Who is compared, and how they answer.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct Contest {
    /// One of the two; absent for the base.
    pub a: Option<AdapterId>,
    /// The other one; absent for the base.
    pub b: Option<AdapterId>,
    /// How both answer, seed included: from the same model the same reply would come twice.
    #[uniffi(default = None)]
    pub options: Option<GenerateOptions>,
    /// Draws the sides. Default: another one each time.
    #[uniffi(default = None)]
    pub seed: Option<u64>,
}

impl Translate<thumbprint::Contest> for Contest {
    fn translate(self) -> thumbprint::Contest {
        let default = thumbprint::Contest::new(Contestant::of(self.a), Contestant::of(self.b));
        thumbprint::Contest {
            options: self.options.map_or(default.options, Translate::translate),
            seed: self.seed.unwrap_or(default.seed),
            ..default
        }
    }
}

/// One that is due, whose options are the default ones.
impl Translate<Contest> for thumbprint::Contest {
    fn translate(self) -> Contest {
        let (a, b) = self.contestants;
        Contest {
            a: a.translate(),
            b: b.translate(),
            options: None,
            seed: Some(self.seed),
        }
    }
}

record! {
    /// Two replies side by side. It does not tell who wrote which.
    Match of thumbprint::Match {
        /// What the vote refers to.
        id: MatchId,
        /// What was answered.
        prompt: Vec<Message>,
        /// The reply on the left.
        left: Side,
        /// The reply on the right.
        right: Side,
        /// The vote, once there is one.
        choice: Option<Choice>,
    }
}

record! {
    /// One side of a match.
    Side of thumbprint::Side {
        /// What feedback refers to: a vote is none, and teaches nothing by itself.
        reply: ReplyId,
        /// The reply's text.
        text: String,
        /// Why it ended.
        stop_reason: Option<StopReason>,
    }
}

choice! {
    /// A vote on a side-by-side.
    Choice of arena::Choice {
        /// The reply on the left is better.
        Left,
        /// The reply on the right is better.
        Right,
        /// Both are as good.
        Tie,
        /// Neither is any good. Counts as a tie, and is counted apart.
        BothBad,
    }
}

record! {
    /// What a vote came to.
    Voted of thumbprint::Voted {
        /// Who was on the left; absent for the base.
        left: Option<AdapterId>,
        /// Who was on the right; absent for the base.
        right: Option<AdapterId>,
        /// Where the trial stands, if the match was between the base and an adapter on trial or promoted: then the vote counts there
        /// too.
        verdict: Option<Verdict>,
    }
}

record! {
    /// What all votes on side-by-sides come to.
    ArenaResults of arena::Results {
        /// Votes.
        votes: u64,
        /// Every two that met, adapters before the base.
        pairs: Vec<PairResult>,
        /// With three contestants or more, the strongest first; else empty.
        strengths: Vec<Strength>,
        /// Whether every contestant met every other one, or others who did: only then can strengths be compared.
        connected: bool,
    }
}

record! {
    /// How two contestants compare.
    PairResult of arena::PairResult {
        /// One of them; absent for the base.
        a: Option<AdapterId>,
        /// The other one; absent for the base.
        b: Option<AdapterId>,
        /// Votes, all kinds together.
        votes: u64,
        /// Votes for `a`.
        wins: u64,
        /// Votes for `b`.
        losses: u64,
        /// Votes for both.
        ties: u64,
        /// Votes for neither.
        both_bad: u64,
        /// Share of votes for `a`, with ties and votes for neither half.
        win_rate: f64,
        /// Its 95 % Wilson interval.
        interval: Interval,
        /// The win rate of `a` at equal length. Read it beside `win_rate`, never instead of it.
        length_controlled_win_rate: Option<f64>,
        /// By how many tokens replies of `a` are longer on average.
        mean_length_difference: f64,
    }
}

record! {
    /// How strong a contestant is.
    Strength of arena::Strength {
        /// Who; absent for the base.
        contestant: Option<AdapterId>,
        /// Votes that it took part in.
        votes: u64,
        /// Log-odds of beating a contestant of strength 0; the strengths of all sum up to 0.
        strength: f64,
        /// 95 % of resamples lie in here.
        interval: Interval,
    }
}
