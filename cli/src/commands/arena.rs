//! `arena`: two contestants answer side by side, and a person who does not know who wrote what says which is better.

use std::io::IsTerminal;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use thumbprint::arena::{Choice, Contestant, PairResult, Results};
use thumbprint::{Contest, ConversationId, Match, MatchId, Message, Thumbprint, Voted};

use crate::error::{CliError, Result};
use crate::interrupt::Interrupt;
use crate::options::{DataDirOption, ModelOption};
use crate::output::{Output, columns};
use crate::session::{self, GenerationOption};

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Options {
    #[command(subcommand)]
    what: Option<What>,
    /// One of the two: an adapter's number, or `base`
    #[arg(required = true)]
    a: Option<Contestant>,
    /// The other one
    #[arg(required = true)]
    b: Option<Contestant>,
    /// What they answer [default: lines of standard input]
    prompts: Vec<String>,
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    data_dir: DataDirOption,
    #[command(flatten)]
    generation: GenerationOption,
    /// Say it in this stored conversation, which goes on from the better reply
    #[arg(long, value_name = "ID")]
    conversation: Option<ConversationId>,
    /// Ask for no votes: they are given later, by `arena vote` (so it is with --json, too)
    #[arg(long)]
    later: bool,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Vote on a match, once
    Vote {
        /// The match
        id: MatchId,
        /// left, right, tie or both-bad
        choice: Choice,
    },
    /// Matches without a vote
    List(ModelOption),
    /// What the votes come to
    Results(ModelOption),
}

/// Does it.
///
/// # Errors
/// No such adapter or match, a match that has its vote, no model.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    match &options.what {
        Some(What::Vote { id, choice }) => {
            let thumbprint = session::open(&options.data_dir, None, out)?;
            told(*id, &thumbprint.vote(*id, *choice)?, out)
        }
        Some(What::List(model)) => {
            let thumbprint = session::open(&options.data_dir, Some(model.path()?), out)?;
            let open = thumbprint.open_matches()?;
            open.iter().try_for_each(|shown| show(shown, out))
        }
        Some(What::Results(model)) => {
            let thumbprint = session::open(&options.data_dir, Some(model.path()?), out)?;
            print(&thumbprint.arena_results()?, out)
        }
        None => compare(options, out),
    }
}

fn compare(options: &Options, out: &Output) -> Result<()> {
    let (Some(a), Some(b)) = (options.a, options.b) else {
        return Err(CliError::Usage("two contestants are needed".to_owned()));
    };
    let interrupt = Interrupt::install()?;
    let thumbprint = session::open(&options.data_dir, None, out)?;
    let conversation = options
        .conversation
        .map(|id| thumbprint.conversation(Some(id)))
        .transpose()?;
    session::load(&thumbprint, options.model.path()?, out)?;
    let mut given = options.prompts.iter().cloned();
    let asks_for_votes = !options.later && !out.is_json();
    let mut nth = 0;
    loop {
        let prompt = match options.prompts.is_empty() {
            true => read_line("prompt> ")?,
            false => given.next(),
        };
        let Some(prompt) = prompt.filter(|prompt| !prompt.trim().is_empty()) else {
            break;
        };
        let settings = options.generation.options(nth);
        nth += 1;
        let contest = Contest {
            contestants: (a, b),
            seed: settings.sampling.seed,
            options: settings,
        };
        let shown = session::cancellable(&interrupt, |canceller| match &conversation {
            Some(conversation) => conversation.side_by_side(&prompt, &contest, canceller),
            None => {
                let messages = vec![Message::user(&prompt)];
                thumbprint.side_by_side(messages, &contest, canceller)
            }
        });
        interrupt.check()?;
        let shown = shown?;
        show(&shown, out)?;
        if asks_for_votes {
            match ask(&shown)? {
                Some(choice) => told(shown.id, &thumbprint.vote(shown.id, choice)?, out)?,
                None => out.note(&format!(
                    "no vote; `thumbprint arena vote {}` gives it later",
                    shown.id
                )),
            }
        }
    }
    if !asks_for_votes {
        return Ok(());
    }
    standing(&thumbprint, a, b, out)
}

/// Where the two stand.
fn standing(thumbprint: &Thumbprint, a: Contestant, b: Contestant, out: &Output) -> Result<()> {
    let results = thumbprint.arena_results()?;
    let of_two =
        |pair: &&PairResult| [pair.a, pair.b].contains(&a) && [pair.a, pair.b].contains(&b);
    match results.pairs.iter().find(of_two) {
        Some(pair) => out.line(sentence(pair)),
        None => Ok(()),
    }
}

fn show(shown: &Match, out: &Output) -> Result<()> {
    if out.is_json() {
        return out.object(&match_object(shown));
    }
    let question = shown.prompt.last().map_or("", |message| &message.content);
    out.line(out.bold(&format!("match {}: {question}", shown.id)))?;
    for (side, reply) in [("left", &shown.left), ("right", &shown.right)] {
        out.line(out.bold(&format!("--- {side} ---")))?;
        out.line(&reply.text)?;
    }
    Ok(())
}

/// A match as an object, which does not tell who wrote what.
fn match_object(shown: &Match) -> Value {
    let side = |side: &thumbprint::Side| json!({ "reply": side.reply, "text": side.text, "stop_reason": side.stop_reason });
    json!({
        "match": shown.id,
        "prompt": shown.prompt,
        "left": side(&shown.left),
        "right": side(&shown.right),
        "choice": shown.choice,
    })
}

/// Asks which is better; none for an empty line or the end of input.
fn ask(shown: &Match) -> Result<Option<Choice>> {
    if shown.left.text == shown.right.text {
        eprintln!("(both say the same)");
    }
    loop {
        let line = read_line("better: (l)eft, (r)ight, (t)ie, (b)oth bad, or Enter for no vote> ")?;
        let choice = match line.as_deref().map(str::trim) {
            None | Some("") => return Ok(None),
            Some("l") => Ok(Choice::Left),
            Some("r") => Ok(Choice::Right),
            Some("t") => Ok(Choice::Tie),
            Some("b") => Ok(Choice::BothBad),
            Some(word) => word.parse(),
        };
        match choice {
            Ok(choice) => return Ok(Some(choice)),
            Err(expected) => eprintln!("{expected}"),
        }
    }
}

fn read_line(prompt: &str) -> Result<Option<String>> {
    if std::io::stdin().is_terminal() {
        eprint!("{prompt}");
    }
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    let read = read.map_err(|source| CliError::File {
        doing: "read",
        path: "standard input".into(),
        source,
    })?;
    Ok((read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned()))
}

fn told(id: MatchId, voted: &Voted, out: &Output) -> Result<()> {
    if out.is_json() {
        return out.object(&json!({
            "match": id,
            "left": voted.left,
            "right": voted.right,
            "trial": voted.verdict,
            "explanation": voted.verdict.as_ref().map(|verdict| verdict.explain()),
        }));
    }
    out.line(format!(
        "left was {}, right was {}",
        name(voted.left),
        name(voted.right)
    ))?;
    match &voted.verdict {
        Some(verdict) => out.line(verdict.explain()),
        None => Ok(()),
    }
}

fn name(contestant: Contestant) -> String {
    match contestant {
        Contestant::Base => "the base".to_owned(),
        Contestant::Adapter(id) => format!("adapter {id}"),
    }
}

fn sentence(pair: &PairResult) -> String {
    let (low, high) = pair.interval;
    let controlled = pair
        .length_controlled_win_rate
        .map_or(String::new(), |rate| {
            format!(", {:.0} % at equal length", 100.0 * rate)
        });
    format!(
        "{} against {}: {:.0} % [{:.0}, {:.0}] of {} votes{controlled}",
        name(pair.a),
        name(pair.b),
        100.0 * pair.win_rate,
        100.0 * low,
        100.0 * high,
        pair.votes
    )
}

fn print(results: &Results, out: &Output) -> Result<()> {
    if out.is_json() {
        return out.object(results);
    }
    if results.votes == 0 {
        return out.line("no votes yet");
    }
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let range = |(low, high): (f64, f64)| format!("[{:.0}, {:.0}]", 100.0 * low, 100.0 * high);
    let mut rows = vec![words(&[
        "who",
        "against",
        "votes",
        "won",
        "lost",
        "tied",
        "both bad",
        "win rate",
        "95 %",
        "at equal length",
        "tokens more",
    ])];
    rows.extend(results.pairs.iter().map(|pair| {
        vec![
            pair.a.to_string(),
            pair.b.to_string(),
            pair.votes.to_string(),
            pair.wins.to_string(),
            pair.losses.to_string(),
            pair.ties.to_string(),
            pair.both_bad.to_string(),
            percent(pair.win_rate),
            range(pair.interval),
            pair.length_controlled_win_rate
                .map_or("-".to_owned(), percent),
            format!("{:+.0}", pair.mean_length_difference),
        ]
    }));
    columns(&rows).iter().try_for_each(|line| out.line(line))?;
    if results.strengths.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut rows = vec![words(&["who", "votes", "strength", "95 %"])];
    rows.extend(results.strengths.iter().map(|strength| {
        let (low, high) = strength.interval;
        vec![
            strength.contestant.to_string(),
            strength.votes.to_string(),
            format!("{:+.2}", strength.strength),
            format!("[{low:+.2}, {high:+.2}]"),
        ]
    }));
    columns(&rows).iter().try_for_each(|line| out.line(line))?;
    match results.connected {
        true => Ok(()),
        false => {
            out.line("some never met, not even through others: their strengths cannot be compared")
        }
    }
}
