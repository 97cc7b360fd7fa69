//! One group: all events on replies to one prompt.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Completion, Example, Kind, LearnFrom, Options, similarity};
use crate::types::{Feedback, FeedbackId, LoggedFeedback, LoggedReply, Message, ReplyId};

/// Weight and label smoothing of a pair by where it comes from.
const EXPLICIT: (f64, f64) = (1.0, 0.1);
const RETRIED: (f64, f64) = (0.5, 0.25);
/// Weight of a retry and nothing else.
const RETRY_ALONE: f64 = 0.25;
/// A pair that differs at all keeps this share of its weight.
const LEAST_OF_SIMILAR: f64 = 0.1;

pub(super) struct Outcome<'a> {
    /// Each with the replies that its completions are, `None` for an edit.
    pub examples: Vec<(Example, Vec<Option<&'a LoggedReply>>)>,
    /// Events that could only give pairs of one text with itself.
    pub identical: BTreeSet<FeedbackId>,
}

/// Makes the examples of a group. `events` are in effect, usable, and in the order of their ids.
pub(super) fn examples_of<'a>(
    prompt_key: &[u8; 32],
    events: &[&'a LoggedFeedback],
    options: &Options,
) -> Outcome<'a> {
    let group = Group::new(prompt_key, events, options);
    let alone = match options.learn_from {
        LearnFrom::Everything => group.demonstration(),
        LearnFrom::Pairs => group.edit_over_original(true).map(|pair| vec![pair]),
        LearnFrom::Thumbs | LearnFrom::Liked => Some(group.verdicts_by_themselves()),
    };
    if let Some(examples) = alone {
        return Outcome {
            examples,
            identical: BTreeSet::new(),
        };
    }
    let mut candidates = Candidates::default();
    let mut examples: Vec<_> = group.ranking(&mut candidates).into_iter().collect();
    if examples.is_empty() {
        group.collect_pairs(&mut candidates);
        examples = candidates.best(&group);
    }
    if examples.is_empty() && options.learn_from == LearnFrom::Everything {
        examples.extend(group.unpaired(&candidates.identical));
    }
    for (example, _) in &mut examples {
        example.items.extend(&candidates.witnesses);
        example.items.sort_unstable();
        example.items.dedup();
    }
    let used: HashSet<_> = examples
        .iter()
        .flat_map(|(example, _)| example.items.clone())
        .collect();
    Outcome {
        examples,
        identical: candidates
            .identical
            .into_iter()
            .filter(|item| !used.contains(item))
            .collect(),
    }
}

struct Group<'a, 'o> {
    prompt_key: [u8; 32],
    prompt: &'a [Message],
    events: Vec<&'a LoggedFeedback>,
    verdicts: BTreeMap<ReplyId, &'a LoggedFeedback>,
    options: &'o Options,
}

/// A pair that may be made.
struct Candidate<'a> {
    chosen: &'a LoggedReply,
    rejected: &'a LoggedReply,
    strength: (f64, f64),
    nll: bool,
    items: Vec<FeedbackId>,
}

#[derive(Default)]
struct Candidates<'a> {
    pairs: Vec<Candidate<'a>>,
    /// Events that kept other events of the group from giving a pair: the group's examples rest on
    /// them too.
    witnesses: BTreeSet<FeedbackId>,
    /// Events that compare a text with itself.
    identical: BTreeSet<FeedbackId>,
}

type Made<'a> = (Example, Vec<Option<&'a LoggedReply>>);

impl<'a, 'o> Group<'a, 'o> {
    fn new(prompt_key: &[u8; 32], events: &[&'a LoggedFeedback], options: &'o Options) -> Self {
        let is_verdict = |event: &&&LoggedFeedback| {
            let verdict = &event.feedback;
            !matches!(
                verdict,
                Feedback::Prefer { .. } | Feedback::Rank { .. } | Feedback::Retry
            )
        };
        Self {
            prompt_key: *prompt_key,
            prompt: events.first().map_or(&[], |event| &event.reply.prompt),
            events: events.to_vec(),
            verdicts: events
                .iter()
                .filter(is_verdict)
                .map(|event| (event.reply.id, *event))
                .collect(),
            options,
        }
    }

    /// The latest edit, if there is one.
    fn demonstration(&self) -> Option<Vec<Made<'a>>> {
        let (edit, text) = self.latest_edit()?;
        let kind = Kind::Demonstration {
            completion: Completion::of_edit(text),
            weight: self.options.edit_weight,
        };
        let mut examples: Vec<Made<'a>> = vec![(self.example(kind, vec![edit.id]), vec![None])];
        if self.options.edit_pairs {
            // The demonstration beside it raises the likelihood already.
            examples.extend(self.edit_over_original(false));
        }
        Some(examples)
    }

    fn latest_edit(&self) -> Option<(&'a LoggedFeedback, &'a str)> {
        let mut events = self.events.iter().rev().copied();
        events.find_map(|event| match &event.feedback {
            Feedback::Edit(text) => Some((event, text.as_str())),
            _ => None,
        })
    }

    /// The latest edit over what was edited.
    fn edit_over_original(&self, nll: bool) -> Option<Made<'a>> {
        let (edit, text) = self
            .latest_edit()
            .filter(|(edit, _)| !edit.reply.text.trim().is_empty())?;
        let kind = Kind::Pair {
            chosen: Completion::of_edit(text),
            rejected: Completion::of_reply(&edit.reply, self.options),
            weight: EXPLICIT.0 * self.discount(similarity(text, &edit.reply.text)),
            label_smoothing: EXPLICIT.1,
            nll,
        };
        Some((
            self.example(kind, vec![edit.id]),
            vec![None, Some(&*edit.reply)],
        ))
    }

    /// Every text that was judged, by itself; one that was judged alike several times counts once.
    fn verdicts_by_themselves(&self) -> Vec<Made<'a>> {
        let silent = self
            .events
            .iter()
            .all(|event| event.feedback == Feedback::Retry);
        let mut made: BTreeMap<[u8; 32], Made<'a>> = BTreeMap::new();
        for event in self.events.iter().copied() {
            let this = (
                Some(&*event.reply),
                Completion::of_reply(&event.reply, self.options),
            );
            let judged = match &event.feedback {
                Feedback::Up => vec![(this, true, 1.0)],
                Feedback::Down { .. } => vec![(this, false, 1.0)],
                Feedback::Edit(text) => {
                    vec![
                        ((None, Completion::of_edit(text)), true, 1.0),
                        (this, false, 1.0),
                    ]
                }
                Feedback::Prefer { .. } => {
                    let other = event.other.as_deref();
                    let other = other.map(|other| {
                        (
                            (Some(other), Completion::of_reply(other, self.options)),
                            false,
                            1.0,
                        )
                    });
                    [(this, true, 1.0)].into_iter().chain(other).collect()
                }
                Feedback::Rank { .. } => {
                    let worst = event.ranked.last().map(|worst| &**worst);
                    let worst = worst.map(|worst| {
                        (
                            (Some(worst), Completion::of_reply(worst, self.options)),
                            false,
                            1.0,
                        )
                    });
                    [(this, true, 1.0)].into_iter().chain(worst).collect()
                }
                Feedback::Retry if silent => vec![(this, false, RETRY_ALONE)],
                Feedback::Retry => Vec::new(),
            };
            for ((source, completion), desirable, weight) in judged {
                let demonstrates = self.options.learn_from == LearnFrom::Liked;
                if completion.text.trim().is_empty() || (demonstrates && !desirable) {
                    continue;
                }
                let kind = match demonstrates {
                    true => Kind::Demonstration { completion, weight },
                    false => Kind::Unpaired {
                        completion,
                        desirable,
                        weight,
                    },
                };
                let example = self.example(kind, vec![event.id]);
                let (known, _) = made
                    .entry(example.key)
                    .or_insert_with(|| (example, vec![source]));
                known.items.push(event.id);
                known.items.dedup();
            }
        }
        made.into_values().collect()
    }

    /// The latest ranking that no later thumbs contradict, if there is one.
    fn ranking(&self, candidates: &mut Candidates<'a>) -> Option<Made<'a>> {
        for event in self.events.iter().rev() {
            if !matches!(event.feedback, Feedback::Rank { .. }) {
                continue;
            }
            let mut ranked: Vec<&'a LoggedReply> = Vec::new();
            for reply in std::iter::once(&event.reply).chain(&event.ranked) {
                let says_something = !reply.text.trim().is_empty();
                if says_something && !ranked.iter().any(|before| same_text(before, reply)) {
                    ranked.push(reply);
                }
            }
            if ranked.len() < 2 {
                candidates.identical.insert(event.id);
                continue;
            }
            let against = self.thumbs_against(event, &ranked);
            if !against.is_empty() {
                candidates.witnesses.extend(against);
                continue;
            }
            let neighbours = ranked.windows(2);
            let similarities = neighbours.map(|pair| similarity(&pair[0].text, &pair[1].text));
            let weight = similarities.map(|s| self.discount(s)).sum::<f64>();
            let up = self.verdicts.get(&ranked[0].id);
            let up = up.filter(|verdict| verdict.feedback == Feedback::Up && ranked[0].finished);
            let kind = Kind::Ranking {
                completions: ranked
                    .iter()
                    .map(|reply| Completion::of_reply(reply, self.options))
                    .collect(),
                weight: weight / (ranked.len() - 1) as f64,
                nll: up.is_some(),
            };
            let items = [event.id].into_iter().chain(up.map(|up| up.id)).collect();
            return Some((
                self.example(kind, items),
                ranked.into_iter().map(Some).collect(),
            ));
        }
        None
    }

    /// A 👎 on a reply and a 👍 on one that was ranked below it, of which one came after the ranking; all of them.
    fn thumbs_against(
        &self,
        ranking: &LoggedFeedback,
        ranked: &[&'a LoggedReply],
    ) -> BTreeSet<FeedbackId> {
        let mut against = BTreeSet::new();
        for (at, better) in ranked.iter().enumerate() {
            for worse in &ranked[at + 1..] {
                if let (Some(down), Some(up)) =
                    (self.verdicts.get(&better.id), self.verdicts.get(&worse.id))
                    && matches!(down.feedback, Feedback::Down { .. })
                    && up.feedback == Feedback::Up
                    && ranking.id < down.id.max(up.id)
                {
                    against.extend([down.id, up.id]);
                }
            }
        }
        against
    }

    fn collect_pairs(&self, candidates: &mut Candidates<'a>) {
        let picks = self.picks(candidates);
        for (up, down) in self
            .thumbs(|feedback| *feedback == Feedback::Up)
            .flat_map(|up| {
                self.thumbs(|feedback| matches!(feedback, Feedback::Down { .. }))
                    .map(move |down| (up, down))
            })
        {
            if same_text(&up.reply, &down.reply) {
                candidates.identical.extend([up.id, down.id]);
                continue;
            }
            // A pick and a pair of thumbs that say the opposite: the later counts.
            let opposing = picks.get(&(down.reply.id, up.reply.id));
            if let Some(pick) = opposing {
                candidates.witnesses.insert(*pick);
                continue;
            }
            candidates.pairs.push(Candidate {
                chosen: &up.reply,
                rejected: &down.reply,
                strength: EXPLICIT,
                nll: true,
                items: vec![up.id, down.id],
            });
        }
        for event in &self.events {
            if event.feedback == Feedback::Retry {
                self.collect_retry(event, candidates);
            }
        }
    }

    /// Adds the pairs of picks. Returns the picks, by (picked, not picked), that no later thumbs
    /// contradict.
    fn picks(&self, candidates: &mut Candidates<'a>) -> BTreeMap<(ReplyId, ReplyId), FeedbackId> {
        let mut standing = BTreeMap::new();
        for event in &self.events {
            let (Feedback::Prefer { .. }, Some(other)) = (&event.feedback, &event.other) else {
                continue;
            };
            if same_text(&event.reply, other) {
                candidates.identical.insert(event.id);
                continue;
            }
            let picked = self.verdicts.get(&event.reply.id);
            if let (Some(down), Some(up)) = (picked, self.verdicts.get(&other.id))
                && matches!(down.feedback, Feedback::Down { .. })
                && up.feedback == Feedback::Up
                && event.id < down.id.max(up.id)
            {
                candidates.witnesses.extend([down.id, up.id]);
                continue;
            }
            standing.insert((event.reply.id, other.id), event.id);
            let up = picked.filter(|verdict| verdict.feedback == Feedback::Up);
            candidates.pairs.push(Candidate {
                chosen: &event.reply,
                rejected: other,
                strength: EXPLICIT,
                nll: up.is_some(),
                items: [event.id].into_iter().chain(up.map(|up| up.id)).collect(),
            });
        }
        standing
    }

    /// A retry speaks for a later reply that got a 👍, and for the one that was kept unless it got a
    /// 👎.
    fn collect_retry(&self, retry: &'a LoggedFeedback, candidates: &mut Candidates<'a>) {
        let old = self.verdicts.get(&retry.reply.id);
        if let Some(up) = old.filter(|verdict| verdict.feedback == Feedback::Up) {
            // Liked, and yet another one was wanted: no word against it.
            candidates.witnesses.insert(up.id);
            return;
        }
        let liked = self
            .thumbs(|feedback| *feedback == Feedback::Up)
            .filter(|up| up.reply.id > retry.reply.id);
        let mut better: Vec<(&'a LoggedReply, Option<FeedbackId>)> =
            liked.map(|up| (&*up.reply, Some(up.id))).collect();
        if let Some(kept) = &retry.other {
            match self.verdicts.get(&kept.id) {
                None => better.push((kept, None)),
                Some(down) if matches!(down.feedback, Feedback::Down { .. }) => {
                    candidates.witnesses.insert(down.id);
                }
                Some(_) => {}
            }
        }
        for (chosen, up) in better {
            if chosen.text.trim().is_empty() || (up.is_some() && old.is_some()) {
                continue; // With a 👎 on the old one, the pair of thumbs says it better.
            }
            if same_text(chosen, &retry.reply) {
                candidates.identical.insert(retry.id);
                continue;
            }
            candidates.pairs.push(Candidate {
                chosen,
                rejected: &retry.reply,
                strength: RETRIED,
                nll: up.is_some(),
                items: [retry.id].into_iter().chain(up).collect(),
            });
        }
    }

    /// The latest 👍, or else the latest 👎, or else the latest retry.
    fn unpaired(&self, identical: &BTreeSet<FeedbackId>) -> Option<Made<'a>> {
        let latest = |wanted: fn(&Feedback) -> bool| {
            let mut events = self.events.iter().rev();
            events
                .find(|event| wanted(&event.feedback) && !identical.contains(&event.id))
                .copied()
        };
        let (event, desirable, weight) = latest(|feedback| *feedback == Feedback::Up)
            .map(|event| (event, true, 1.0))
            .or_else(|| {
                latest(|feedback| matches!(feedback, Feedback::Down { .. }))
                    .map(|event| (event, false, 1.0))
            })
            .or_else(|| {
                // Beside any word on the matter, a retry alone says nothing.
                let silent = self
                    .events
                    .iter()
                    .all(|event| event.feedback == Feedback::Retry);
                latest(|feedback| *feedback == Feedback::Retry)
                    .filter(|_| silent)
                    .map(|event| (event, false, RETRY_ALONE))
            })?;
        let completion = Completion::of_reply(&event.reply, self.options);
        let kind = Kind::Unpaired {
            completion,
            desirable,
            weight,
        };
        Some((self.example(kind, vec![event.id]), vec![Some(&event.reply)]))
    }

    fn thumbs(&self, wanted: fn(&Feedback) -> bool) -> impl Iterator<Item = &'a LoggedFeedback> {
        self.verdicts
            .values()
            .copied()
            .filter(move |event| wanted(&event.feedback))
    }

    fn example(&self, kind: Kind, items: Vec<FeedbackId>) -> Example {
        Example {
            key: kind.key(&self.prompt_key),
            prompt: self.prompt.to_vec(),
            prompt_key: self.prompt_key,
            kind,
            items,
        }
    }

    /// The share of its weight that a pair of such similarity keeps.
    fn discount(&self, similarity: f64) -> f64 {
        let from = self.options.similar_from.min(1.0 - f64::EPSILON);
        ((1.0 - similarity) / (1.0 - from)).clamp(LEAST_OF_SIMILAR, 1.0)
    }
}

impl<'a> Candidates<'a> {
    /// The best pairs: first those that share no text, then other combinations of the same texts.
    fn best(&self, group: &Group<'a, '_>) -> Vec<Made<'a>> {
        let mut ranked = Vec::new();
        for pair in &self.pairs {
            let similarity = similarity(&pair.chosen.text, &pair.rejected.text);
            let kind = Kind::Pair {
                chosen: Completion::of_reply(pair.chosen, group.options),
                rejected: Completion::of_reply(pair.rejected, group.options),
                weight: pair.strength.0 * group.discount(similarity),
                label_smoothing: pair.strength.1,
                // Raising the likelihood of a reply without its end teaches not to end.
                nll: pair.nll && pair.chosen.finished,
            };
            ranked.push((pair, similarity, group.example(kind, pair.items.clone())));
        }
        ranked.sort_by(
            |(a, a_similarity, a_example), (b, b_similarity, b_example)| {
                b.strength
                    .0
                    .total_cmp(&a.strength.0)
                    // Where a reply cut off by a limit would have ended is not known: a poor model to follow.
                    .then(b.chosen.finished.cmp(&a.chosen.finished))
                    .then(a_similarity.total_cmp(b_similarity))
                    .then(a_example.key.cmp(&b_example.key))
                    // The same texts twice over: rather the 👍, and rather what was said last.
                    .then(b.nll.cmp(&a.nll))
                    .then(b.items.cmp(&a.items))
            },
        );
        let mut texts_taken = HashSet::new();
        let (fresh, again): (Vec<_>, Vec<_>) = ranked.into_iter().partition(|(pair, ..)| {
            let texts = [pair.chosen.text.as_str(), pair.rejected.text.as_str()];
            let fresh = !texts.iter().any(|text| texts_taken.contains(text));
            if fresh {
                texts_taken.extend(texts);
            }
            fresh
        });
        let mut sides_taken = HashSet::new();
        let made = |(pair, _, example): (&Candidate<'a>, f64, Example)| {
            (example, vec![Some(pair.chosen), Some(pair.rejected)])
        };
        fresh
            .into_iter()
            .chain(again)
            .filter(|(pair, ..)| {
                let (chosen, rejected) = (pair.chosen.text.trim(), pair.rejected.text.trim());
                // Two words on the same two texts: the stronger counts, whichever way the weaker points.
                !sides_taken.contains(&(rejected, chosen)) && sides_taken.insert((chosen, rejected))
            })
            .take(group.options.pairs_per_prompt.max(1))
            .map(made)
            .collect()
    }
}

fn same_text(a: &LoggedReply, b: &LoggedReply) -> bool {
    a.text.trim() == b.text.trim()
}
