//! What the demo found out, in numbers and in samples.

use serde::Serialize;
use serde_json::Value;
use thumbprint::gate::stats::wilson;
use thumbprint::{AdapterDetails, Reply, StopReason};
use thumbprint_simulated_user::{Choice, Prompt, Taste, demo, keyword_recall, opening};

use super::person::Thumbs;
use crate::error::Result;
use crate::files::resident_memory_mib;
use crate::output::{Output, columns};
use crate::simulation::{gate_numbers, mean_tokens, measured};

/// Words in which this person wants the point made.
const OPENING_WORDS: usize = 45;
/// Side-by-side samples shown.
const SAMPLES: usize = 4;

/// What the report is made of.
pub struct Facts<'a> {
    pub description: String,
    pub thumbs: Thumbs,
    pub prompts: &'a [Prompt],
    pub taste: &'a Taste,
    pub base: &'a [Reply],
    pub tuned: &'a [Reply],
    pub told: &'a [Reply],
    pub details: &'a AdapterDetails,
    pub train_seconds: f64,
    pub total_seconds: f64,
    pub seed: u64,
}

/// The report. Lengths in tokens, log-probabilities in nats.
#[derive(Debug, Serialize)]
pub struct Report {
    model: String,
    seed: u64,
    thumbs: Thumbs,
    /// Share of held-out questions whose answer the person likes better with the adapter, ties half, by the noiseless utility.
    heldout_win_rate: f64,
    /// Its 95 % Wilson interval.
    win_rate_ci: (f64, f64),
    /// The same for the base model told the taste in its system prompt.
    system_prompt_win_rate: f64,
    system_prompt_win_rate_ci: (f64, f64),
    /// Mean share of a good answer's keywords in the first [`OPENING_WORDS`] words: the same length of text of short and long
    /// answers, or a long one would be rewarded for its length.
    keyword_recall_before: f64,
    keyword_recall_after: f64,
    keyword_recall_system_prompt: f64,
    /// The same before, in no more words than the answer with the adapter has: what a shorter answer can be asked to hold.
    keyword_recall_before_in_as_many_words: f64,
    /// The same in the whole answers.
    keyword_recall_whole_before: f64,
    keyword_recall_whole_after: f64,
    keyword_recall_whole_system_prompt: f64,
    mean_tokens_before: f64,
    mean_tokens_after: f64,
    mean_tokens_system_prompt: f64,
    /// Share of answers that ended by themselves.
    finished_before: f64,
    finished_after: f64,
    neutral_ppl_ratio: Option<f64>,
    kl_feedback: Option<f64>,
    kl_own_samples: Option<f64>,
    /// Mean change of the log-probability of chosen and rejected replies.
    delta_logp_chosen: Option<f64>,
    delta_logp_rejected: Option<f64>,
    held_out: Option<Value>,
    votes: Option<Value>,
    scale: f32,
    state: String,
    train_seconds: f64,
    total_seconds: f64,
    peak_rss_mib: Option<f64>,
}

impl Report {
    pub fn new(facts: Facts<'_>) -> Self {
        let n = facts.prompts.len();
        let win_rate = |replies: &[Reply]| {
            let halves: u32 = facts
                .prompts
                .iter()
                .zip(replies)
                .zip(facts.base)
                .map(|((prompt, reply), base)| {
                    match facts.taste.preference(prompt, &reply.text, &base.text) {
                        Choice::Left => 2,
                        Choice::Tie => 1,
                        Choice::Right => 0,
                    }
                })
                .sum();
            f64::from(halves) / 2.0 / n as f64
        };
        let interval = |rate: f64| wilson(rate * n as f64, n);
        let recall = |replies: &[Reply], part: fn(&str) -> &str| {
            let answers = facts.prompts.iter().zip(replies);
            let shares = answers.map(|(prompt, reply)| keyword_recall(prompt, part(&reply.text)));
            shares.sum::<f64>() / n as f64
        };
        let beginning = |replies| recall(replies, |text| opening(text, OPENING_WORDS));
        let whole = |replies| recall(replies, |text| text);
        let in_as_many_words = {
            let answers = facts.prompts.iter().zip(facts.base).zip(facts.tuned);
            let shares = answers.map(|((prompt, base), tuned)| {
                let words = tuned
                    .text
                    .split_whitespace()
                    .count()
                    .clamp(1, OPENING_WORDS);
                keyword_recall(prompt, opening(&base.text, words))
            });
            shares.sum::<f64>() / n as f64
        };
        let numbers = gate_numbers(facts.details);
        let measured = measured(facts.details);
        let shifts = &facts.details.row.manifest["logp_shifts"];
        let heldout_win_rate = win_rate(facts.tuned);
        let system_prompt_win_rate = win_rate(facts.told);
        Self {
            model: facts.description,
            seed: facts.seed,
            thumbs: facts.thumbs,
            heldout_win_rate,
            win_rate_ci: interval(heldout_win_rate),
            system_prompt_win_rate,
            system_prompt_win_rate_ci: interval(system_prompt_win_rate),
            keyword_recall_before: beginning(facts.base),
            keyword_recall_after: beginning(facts.tuned),
            keyword_recall_system_prompt: beginning(facts.told),
            keyword_recall_before_in_as_many_words: in_as_many_words,
            keyword_recall_whole_before: whole(facts.base),
            keyword_recall_whole_after: whole(facts.tuned),
            keyword_recall_whole_system_prompt: whole(facts.told),
            mean_tokens_before: mean_tokens(facts.base),
            mean_tokens_after: mean_tokens(facts.tuned),
            mean_tokens_system_prompt: mean_tokens(facts.told),
            finished_before: finished(facts.base),
            finished_after: finished(facts.tuned),
            neutral_ppl_ratio: measured.ppl_ratio,
            kl_feedback: measured.kl_feedback,
            kl_own_samples: measured.kl_own_samples,
            delta_logp_chosen: shifts["chosen"].as_f64(),
            delta_logp_rejected: shifts["rejected"].as_f64(),
            held_out: numbers.as_ref().map(|n| n["measured"]["folds"].clone()),
            votes: facts
                .details
                .verdict
                .as_ref()
                .and_then(|v| serde_json::to_value(v).ok()),
            scale: facts.details.row.scale,
            state: facts.details.row.state.as_str().to_owned(),
            train_seconds: facts.train_seconds,
            total_seconds: facts.total_seconds,
            peak_rss_mib: resident_memory_mib().map(|(peak, _)| peak),
        }
    }

    /// For people.
    pub fn print(
        &self,
        out: &Output,
        prompts: &[Prompt],
        base: &[Reply],
        tuned: &[Reply],
    ) -> Result<()> {
        let step = prompts.len() / SAMPLES;
        for i in (0..SAMPLES).map(|i| i * step + step / 2) {
            out.line(out.bold(&prompts[i].text))?;
            out.line(format!("  before: {}", one_line(&base[i].text)))?;
            out.line(format!(
                "  after:  {}\n",
                out.green(&one_line(&tuned[i].text))
            ))?;
        }
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let rate = |rate: f64, (low, high): (f64, f64)| {
            format!(
                "{} [{:.0}, {:.0}]",
                percent(rate),
                100.0 * low,
                100.0 * high
            )
        };
        let number = |value: Option<f64>, digits: usize| {
            value.map_or("-".to_owned(), |v| format!("{v:.digits$}"))
        };
        let row = |cells: &[&str]| {
            cells
                .iter()
                .map(|cell| (*cell).to_owned())
                .collect::<Vec<_>>()
        };
        let table = [
            row(&[
                "On 100 questions it never learned from",
                "before",
                "after",
                "system prompt",
            ]),
            row(&[
                "preferred to before (95 % interval)",
                "50 %",
                &rate(self.heldout_win_rate, self.win_rate_ci),
                &rate(self.system_prompt_win_rate, self.system_prompt_win_rate_ci),
            ]),
            row(&[
                &format!("keywords of a good answer, first {OPENING_WORDS} words"),
                &percent(self.keyword_recall_before),
                &percent(self.keyword_recall_after),
                &percent(self.keyword_recall_system_prompt),
            ]),
            row(&[
                "  in as many words as after",
                &percent(self.keyword_recall_before_in_as_many_words),
                &percent(self.keyword_recall_after),
                "",
            ]),
            row(&[
                "  in the whole answer",
                &percent(self.keyword_recall_whole_before),
                &percent(self.keyword_recall_whole_after),
                &percent(self.keyword_recall_whole_system_prompt),
            ]),
            row(&[
                "mean length, tokens",
                &format!("{:.0}", self.mean_tokens_before),
                &format!("{:.0}", self.mean_tokens_after),
                &format!("{:.0}", self.mean_tokens_system_prompt),
            ]),
            row(&[
                "finished by itself",
                &percent(self.finished_before),
                &percent(self.finished_after),
                "",
            ]),
        ];
        for line in columns(&table) {
            out.line(line)?;
        }
        out.line(format!("(system prompt: \"{}\")\n", demo().system_prompt))?;
        let facts = [
            row(&[
                "log-probability of chosen / rejected replies, nats",
                &format!(
                    "{} / {}",
                    number(self.delta_logp_chosen, 1),
                    number(self.delta_logp_rejected, 1)
                ),
            ]),
            row(&[
                "KL to the base on its replies / on the adapter's own, nats a token",
                &format!(
                    "{} / {}",
                    number(self.kl_feedback, 3),
                    number(self.kl_own_samples, 3)
                ),
            ]),
            row(&[
                "neutral perplexity, ratio to the base",
                &number(self.neutral_ppl_ratio, 3),
            ]),
            row(&[
                "personalization / all, seconds",
                &format!("{:.0} / {:.0}", self.train_seconds, self.total_seconds),
            ]),
            row(&["peak memory, MiB", &number(self.peak_rss_mib, 0)]),
            row(&[
                "adapter",
                &format!("{} at scale {}", self.state.replace('_', " "), self.scale),
            ]),
        ];
        for line in columns(&facts) {
            out.line(line)?;
        }
        Ok(())
    }
}

fn finished(replies: &[Reply]) -> f64 {
    replies
        .iter()
        .filter(|r| r.stop_reason == StopReason::EndOfTurn)
        .count() as f64
        / replies.len() as f64
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
