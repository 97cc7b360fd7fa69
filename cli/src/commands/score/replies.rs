//! `score --reply`, `--text` and `--fit-head`: rewards of single replies.

use serde_json::{Value, json};
use thumbprint::reward::{HeadOptions, Score};
use thumbprint::{Message, ReplyId};

use super::Options;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::session;

pub fn run(options: &Options, out: &Output) -> Result<()> {
    let thumbprint = session::open(&options.data_dir, None, out)?;
    session::load(&thumbprint, options.model.path()?, out)?;
    for reply in &options.reply {
        let score = thumbprint.score(*reply, options.judge)?;
        print(Some(*reply), &score, options, out)?;
    }
    if let (Some(prompt), Some(text)) = (&options.prompt, &options.text) {
        let prompt = [Message::user(prompt)];
        print(
            None,
            &thumbprint.score_text(&prompt, text, options.judge)?,
            options,
            out,
        )?;
    }
    Ok(())
}

fn print(reply: Option<ReplyId>, score: &Score, options: &Options, out: &Output) -> Result<()> {
    if out.is_json() {
        let mut object = json!(score);
        object["reply"] = json!(reply);
        object["judge"] = Value::String(options.judge.to_string());
        return out.object(&object);
    }
    let name = reply.map_or("the text".to_owned(), |id| format!("reply {id}"));
    let n = score.tokens.len();
    match (score.logp, score.reference_logp, score.beta) {
        (Some(logp), Some(reference), Some(beta)) => out.line(format!(
            "{name}: {:+.3} ({beta} x ({logp:.3} - {reference:.3} nats over {n} tokens))",
            score.reward
        )),
        _ => out.line(format!(
            "{name}: {:+.3} (log-odds of a 👍, {n} tokens)",
            score.reward
        )),
    }
}

pub fn fit(options: &Options, out: &Output) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let thumbprint = session::open(&options.data_dir, None, out)?;
    session::load(&thumbprint, options.model.path()?, out)?;
    let fitted = session::cancellable(&interrupt, |canceller| {
        thumbprint.fit_head(&HeadOptions { l2: options.l2 }, canceller)
    });
    interrupt.check()?;
    let head = fitted?;
    if out.is_json() {
        return out.object(&json!({
            "base_sha256": head.base_sha256,
            "features": head.weights.len(),
            "pairs": head.pairs,
            "singles": head.singles,
            "l2": head.l2,
            "bias": head.bias,
            "cross_validated": head.cross_validated,
        }));
    }
    let unseen = match &head.cross_validated {
        Some(right) => format!(
            "; of prompts that it had not seen it judges {:.0} % right [{:.0}, {:.0}]",
            100.0 * right.accuracy,
            100.0 * right.interval.0,
            100.0 * right.interval.1
        ),
        None => String::new(),
    };
    out.line(format!(
        "fitted on {} pairs and {} single judgements, ridge {}{unseen}",
        head.pairs, head.singles, head.l2
    ))
}
