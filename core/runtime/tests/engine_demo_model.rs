//! The engine on the demo model: recorded values, replies that make sense, and times.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use common::{adapter, ask, draw, greedy, run};
use thumbprint::engine::{
    Canceller, Engine, Event, GenerateOptions, Prompt, Request, ScoreText, With,
};
use thumbprint::types::{Message, StopReason};
use thumbprint_fixtures::{demo_model_path, golden_data, golden_dir};
use thumbprint_ggml::llama::{Batch, Context, ContextParams, Products};

#[test]
fn prompts_are_those_of_the_recorded_templates() {
    let engine = engine();
    let pairs = recorded_pairs();
    for pair in &pairs {
        let line = line_of(pair);
        let messages: Vec<Message> = serde_json::from_value(line["prompt"].clone()).unwrap();
        let prompt = engine.chat().prompt_tokens(&messages).unwrap();
        assert_eq!(prompt, tokens_of(&pair["prompt_ids"]));
        for side in ["chosen", "rejected"] {
            let recorded = tokens_of(&pair[format!("{side}_ids")]);
            // TRL also scores the newline that ChatML writes after the end token.
            let (newline, expected) = recorded.split_last().unwrap();
            let text = line[side][0]["content"].as_str().unwrap();
            assert_eq!(engine.chat().completion_tokens(text).unwrap(), expected);
            assert_eq!(*newline, 198);
        }
    }
    assert!(pairs.len() >= 8, "{}", pairs.len());
}

#[test]
fn end_tokens_are_the_models_and_the_templates() {
    let engine = engine();
    assert_eq!(engine.chat().completion_end_tokens(), [0, 2, 4]);
    assert_eq!(engine.chat().end_of_turn(), Some(2));
    assert!(!engine.chat().template().is_fallback() && engine.info().warnings.is_empty());
}

#[test]
fn logps_are_those_recorded_from_pytorch() {
    let engine = engine();
    let pairs = &recorded_pairs()[..4];
    let sides = || {
        pairs
            .iter()
            .flat_map(|pair| ["chosen", "rejected"].map(|side| (pair, side)))
    };
    let texts = sides().map(|(pair, side)| ScoreText {
        prompt: tokens_of(&pair["prompt_ids"]),
        completion: tokens_of(&pair[format!("{side}_ids")]),
    });
    let scores = engine
        .score(texts.collect(), With::Base, &Canceller::default())
        .unwrap();
    let mut differences = Vec::new();
    for (scores, (pair, side)) in scores.iter().zip(sides()) {
        let recorded = pair[format!("{side}_logps_f32")].clone();
        let recorded: Vec<f64> = serde_json::from_value(recorded).unwrap();
        assert_eq!(scores.len(), recorded.len());
        differences.extend(
            scores
                .iter()
                .zip(recorded)
                .map(|(score, recorded)| score - recorded),
        );
    }
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    let mean_size = differences.iter().map(|d| d.abs()).sum::<f64>() / n;
    let largest = differences.iter().map(|d| d.abs()).fold(0.0, f64::max);
    println!("against PyTorch: mean {mean:.4}, mean size {mean_size:.4}, largest {largest:.4}");
    // Without our products llama.cpp quantizes activations to 8 bits before Q4_1 and Q8_0 weights, which PyTorch did not:
    // noise without a bias. Observed so -0.008, 0.055 and 0.38 nats.
    assert!(mean.abs() < 0.02 && mean_size < 0.1 && largest < 0.8);
}

#[test]
fn a_reply_tells_what_it_was_made_of() {
    let engine = engine();
    let reply = run(&engine, &ask("What is 2 + 2?", greedy(48)));
    // Word for word it depends on the CPU's kernels.
    assert!(reply.text.contains('4'), "{}", reply.text);
    assert_eq!(reply.stop_reason, StopReason::EndOfTurn);
    assert_eq!(
        reply.tokens,
        engine.chat().completion_tokens(&reply.text).unwrap()
    );
    assert_eq!(
        reply.usage.prompt_tokens as usize,
        reply.prompt_tokens.len()
    );
    assert_eq!(reply.usage.completion_tokens as usize, reply.tokens.len());
    assert_eq!(reply.template_hash, engine.info().template_hash);
    assert_eq!(reply.adapter, None);
    assert!(reply.usage.first_token_ms >= reply.prefill_ms && reply.prefill_ms > 0.0);
    assert!(reply.tokens_per_second() > 0.0);
}

#[test]
fn a_stop_string_across_tokens_ends_the_reply_and_is_not_shown() {
    let engine = engine();
    let question = "Count from one to ten in words.";
    let whole = run(&engine, &ask(question, greedy(48)));
    // From the middle of one word into the middle of a later one.
    let stop = whole.text[3..].chars().take(12).collect::<String>();
    assert!(stop.contains(' '), "{stop}");
    let stopping = GenerateOptions {
        stop: vec![stop],
        ..greedy(48)
    };
    let stopped = run(&engine, &ask(question, stopping));
    assert_eq!(
        (stopped.stop_reason, stopped.text.as_str()),
        (StopReason::StopString, &whole.text[..3])
    );
}

#[test]
fn a_second_turn_reuses_the_first_with_its_reply() {
    let engine = engine();
    let mut messages = vec![Message::user("What is 2 + 2?")];
    let first = run(&engine, &Request::chat(messages.clone(), greedy(48)));
    messages.extend([Message::assistant(first.text), Message::user("And 3 + 3?")]);
    let second = run(&engine, &Request::chat(messages.clone(), greedy(16)));
    // The first question and the reply but for its end token, which was chosen and not computed.
    let held = first.usage.prompt_tokens + first.usage.completion_tokens - 1;
    assert_eq!(second.usage.reused_tokens, held);
    // Another conversation empties the cache; the same turn then says the same, or what is as likely: sums are taken in another order
    // where more tokens are computed at once.
    run(&engine, &ask("Hi", greedy(1)));
    let again = run(&engine, &Request::chat(messages, greedy(16)));
    assert!(again.usage.reused_tokens < held);
    assert_eq!(again.prompt_tokens, second.prompt_tokens);
    let texts = [&second, &again].map(|reply| ScoreText {
        prompt: reply.prompt_tokens.clone(),
        completion: reply.tokens.clone(),
    });
    let scores = engine.score(texts.to_vec(), With::Base, &Canceller::default());
    let logps = scores.unwrap();
    let [of_second, of_again] = [0, 1].map(|i| logps[i].iter().sum::<f64>());
    assert!((of_second - of_again).abs() < 0.5, "{of_second} {of_again}");
}

#[test]
fn cancelling_ends_a_reply_within_a_token() {
    let engine = engine();
    let request = ask("Count from one to one hundred in words.", greedy(400));
    let mut generation = engine.generate(&request).unwrap();
    let mut streamed = String::new();
    while streamed.is_empty() {
        if let Some(Event::Token { text }) = generation.next().unwrap() {
            streamed += &text;
        }
    }
    generation.cancel();
    let reply = generation.wait().unwrap();
    assert_eq!(reply.stop_reason, StopReason::Cancelled);
    // This thread may be slow to cancel on a busy machine; the engine is not slow to stop.
    assert!(reply.tokens.len() < 100, "{}", reply.tokens.len());
    assert!(
        run(&engine, &ask("What is 2 + 2?", greedy(24)))
            .text
            .contains('4')
    );
}

#[test]
fn cancelling_works_in_the_middle_of_a_prompt() {
    let engine = engine();
    let generation = engine
        .generate(&ask(&"word ".repeat(800), greedy(4)))
        .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let asked = Instant::now();
    generation.cancel();
    let reply = generation.wait().unwrap();
    println!(
        "{} prompt tokens, cancelled in {:?}",
        reply.usage.prompt_tokens,
        asked.elapsed()
    );
    assert_eq!(
        (reply.stop_reason, reply.tokens.len()),
        (StopReason::Cancelled, 0)
    );
}

#[test]
fn dropping_a_generation_frees_the_engine() {
    let engine = engine();
    let request = ask("Count from one to one hundred in words.", greedy(900));
    drop(engine.generate(&request).unwrap());
    let next = run(&engine, &ask("What is 2 + 2?", greedy(4)));
    // 900 tokens would take ten seconds or more.
    assert!(
        next.usage.first_token_ms < 5000.0,
        "{}",
        next.usage.first_token_ms
    );
}

#[test]
fn a_batch_says_the_same_again_and_what_its_requests_say_alone() {
    let engine = engine();
    let questions = [
        "What is 2 + 2?",
        "Name a fruit.",
        "Say hello.",
        "Name a fruit.",
    ];
    let mut requests: Vec<_> = questions.iter().map(|q| ask(q, greedy(16))).collect();
    requests.push(ask("Tell me a joke.", draw(16, 5)));
    let batch = |requests: &[Request]| engine.generate_batch(requests, 3).unwrap().wait().unwrap();
    let together = batch(&requests);
    for (reply, again) in together.iter().zip(batch(&requests)) {
        assert_eq!(reply.text, again.text);
    }
    // Attention still differs by rounding, which a draw may turn into another word; the likeliest words are the same.
    for (request, reply) in requests.iter().zip(&together).take(questions.len()) {
        let alone = batch(std::slice::from_ref(request)).remove(0);
        assert_eq!(
            (&reply.text, reply.stop_reason),
            (&alone.text, alone.stop_reason)
        );
    }
    // The default system message that begins every prompt is computed once.
    assert!(
        together[1..]
            .iter()
            .all(|reply| reply.usage.reused_tokens >= 20)
    );
}

#[test]
fn a_generation_interrupts_a_batch() {
    let engine = engine();
    let long = |i| ask(&format!("Write {i} long paragraphs."), greedy(60));
    let requests: Vec<_> = (0..4).map(long).collect();
    let mut batch = engine.generate_batch(&requests, 2).unwrap();
    assert!(!engine.demand().is_waiting());
    let generation = engine.generate(&ask("What is 2 + 2?", greedy(6))).unwrap();
    assert!(engine.demand().is_waiting());
    generation.wait().unwrap();
    // Nothing of the batch was finished by then.
    let started = Instant::now();
    let mut done = 0;
    while batch.next().unwrap().is_some() {
        done += 1;
    }
    assert_eq!(done, 4);
    assert!(
        started.elapsed() > Duration::from_millis(200),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn a_cancelled_batch_gives_what_it_has() {
    let engine = engine();
    let long = |i| ask(&format!("Write {i} long paragraphs."), greedy(300));
    let requests: Vec<_> = (0..6).map(long).collect();
    let batch = engine.generate_batch(&requests, 2).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    batch.cancel();
    let replies = batch.wait().unwrap();
    assert!(
        replies
            .iter()
            .all(|reply| reply.stop_reason == StopReason::Cancelled)
    );
    assert!(replies[5].tokens.is_empty());
}

#[test]
fn swapping_an_adapter_takes_less_than_50_ms_with_the_first_decode() {
    let engine = engine();
    // One token is decoded, so that the time is the swap's and not the prompt's.
    let one = Request {
        prompt: Prompt::Tokens(vec![1]),
        ..ask("", greedy(1))
    };
    let swap = |i: u8| {
        let started = Instant::now();
        let loaded = adapter(&engine, "v2", 0.01 * f32::from(i));
        let load = started.elapsed();
        let started = Instant::now();
        engine.set_adapter(Some(loaded)).unwrap();
        run(&engine, &one);
        (started.elapsed(), load)
    };
    let (fastest, load) = least_of(20, swap, |(time, _)| time.as_secs_f32() < 0.05);
    println!("set and first decode: {fastest:?}; making and loading the adapter before: {load:?}");
    engine.set_adapter(None).unwrap();
    // Observed 9 ms, and more on a busy machine.
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
}

#[test]
fn the_engine_adds_little_to_bare_llama_cpp() {
    let engine = engine();
    let filler = "the sea was calm and ".repeat(40);
    let prompt = engine
        .chat()
        .model()
        .tokenize(&filler, false, false)
        .unwrap()[..150]
        .to_vec();
    let request = Request {
        prompt: Prompt::Tokens(prompt.clone()),
        ..ask("", greedy(48))
    };
    let params = ContextParams {
        n_ctx: 1024,
        n_threads: 2,
        products: Products::Stock,
        ..ContextParams::default()
    };
    let mut bare = Context::new(engine.chat().model(), &params).unwrap();
    let round = |_| {
        run(&engine, &ask("Forget.", greedy(1)));
        let reply = run(&engine, &request);
        assert_eq!(reply.usage.reused_tokens, 0);

        // The same tokens again, without an engine.
        bare.kv_clear();
        let mut batch = Batch::new();
        for (i, &token) in prompt.iter().enumerate() {
            batch.push(token, i as i32, 0, i + 1 == prompt.len());
        }
        let started = Instant::now();
        bare.decode(&batch, None).unwrap();
        let prefill_ms = 1000.0 * started.elapsed().as_secs_f32();
        let started = Instant::now();
        let decoded = reply.tokens.len() - 1;
        for (i, &token) in reply.tokens[..decoded].iter().enumerate() {
            batch.clear();
            batch.push(token, (prompt.len() + i) as i32, 0, true);
            bare.decode(&batch, None).unwrap();
        }
        let decode_ms = 1000.0 * started.elapsed().as_secs_f32();
        (
            reply.usage.decode_ms / decode_ms,
            reply.prefill_ms / prefill_ms,
        )
    };
    let (decode, prefill) = least_of(8, round, |&(decode, _)| decode < 1.05);
    println!("engine over bare llama.cpp, time: reply {decode:.3}, prompt {prefill:.3}");
    // Observed 1.00 to 1.03 on an idle machine.
    assert!(decode < 1.2, "{decode}");
}

/// Times something up to `n` times, until `enough`: other programs can only make it slower. The
/// least.
fn least_of<T: PartialOrd>(n: u8, mut time: impl FnMut(u8) -> T, enough: impl Fn(&T) -> bool) -> T {
    let mut least = time(0);
    for i in 1..n {
        if enough(&least) {
            break;
        }
        let next = time(i);
        if next < least {
            least = next;
        }
    }
    least
}

/// One engine for all tests, one test at a time: times and cached prefixes are looked at.
fn engine() -> MutexGuard<'static, Engine> {
    static ENGINE: OnceLock<Mutex<Engine>> = OnceLock::new();
    let start = || Mutex::new(common::start(&demo_model_path(), 2));
    ENGINE
        .get_or_init(start)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

fn recorded_pairs() -> Vec<serde_json::Value> {
    let text = std::fs::read(golden_dir().join("logps.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&text).unwrap();
    golden["pairs"].as_array().unwrap().clone()
}

/// The line of data that a recorded pair was made from.
fn line_of(pair: &serde_json::Value) -> serde_json::Value {
    let set = pair["set"].as_str().unwrap();
    let text = std::fs::read_to_string(golden_data(&format!("{set}.jsonl"))).unwrap();
    let index = pair["index"].as_u64().unwrap() as usize;
    serde_json::from_str(text.lines().nth(index).unwrap()).unwrap()
}

fn tokens_of(ids: &serde_json::Value) -> Vec<i32> {
    serde_json::from_value(ids.clone()).unwrap()
}
