//! The person meets recorded replies of a real model: SmolLM2-135M-Instruct's own (rejected) and short ones written by
//! people (chosen), in `tests/data`.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use thumbprint_simulated_user::{
    Choice, LOSES, Population, Prompt, SELF_AGREEMENT, SimulatedUser, Taste, Thumb, demo,
    keyword_recall, opening,
};

/// Words in which the demo's user wants the point made.
const OPENING_WORDS: usize = 45;

fn taste() -> Taste {
    Taste::fitted(&demo().utility, &[])
}

fn utility(prompt: &Prompt, reply: &str) -> f64 {
    taste().utility(prompt, reply)
}

struct Recorded {
    prompt: &'static Prompt,
    by_a_person: String,
    by_the_model: String,
}

fn recorded() -> Vec<Recorded> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data");
    let lines = ["train.jsonl", "heldout.jsonl"]
        .map(|file| std::fs::read_to_string(folder.join(file)).unwrap())
        .concat();
    let recorded: Vec<Recorded> = lines
        .lines()
        .filter_map(|line| {
            let pair: serde_json::Value = serde_json::from_str(line).unwrap();
            let content = |side: &str| pair[side][0]["content"].as_str().unwrap().to_owned();
            // A few questions in other languages are nobody's.
            let prompt = Population::development().find(&content("prompt"))?;
            Some(Recorded {
                prompt,
                by_a_person: content("chosen"),
                by_the_model: content("rejected"),
            })
        })
        .collect();
    assert!(recorded.len() > 85, "{}", recorded.len());
    recorded
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn the_model_as_it_comes_is_about_zero_and_hardly_ever_no_answer() {
    let utilities: Vec<f64> = recorded()
        .iter()
        .map(|r| utility(r.prompt, &r.by_the_model))
        .collect();
    let lost = utilities.iter().filter(|u| **u == LOSES).count();
    // Observed: 9 of 92, mostly loops.
    assert!(lost * 8 < utilities.len(), "{lost}");
    let answers = mean(utilities.into_iter().filter(|u| *u != LOSES));
    // Observed 0.08, with a standard deviation of 1.13.
    assert!(answers.abs() < 0.25, "{answers}");
}

#[test]
fn short_answers_by_people_are_preferred_nearly_always() {
    let choices: Vec<Choice> = recorded()
        .iter()
        .map(|r| taste().preference(r.prompt, &r.by_a_person, &r.by_the_model))
        .collect();
    let wins = choices
        .iter()
        .filter(|choice| **choice == Choice::Left)
        .count();
    // Observed: 82 of 92; some of the people's answers are very short.
    assert!(
        wins * 100 >= choices.len() * 80,
        "{wins} of {}",
        choices.len()
    );
}

#[test]
fn short_answers_by_people_recall_more_than_the_model_does_at_any_length() {
    let recorded = recorded();
    let people = mean(
        recorded
            .iter()
            .map(|r| keyword_recall(r.prompt, &r.by_a_person)),
    );
    let model = mean(
        recorded
            .iter()
            .map(|r| keyword_recall(r.prompt, &r.by_the_model)),
    );
    let start = |r: &Recorded| keyword_recall(r.prompt, opening(&r.by_the_model, OPENING_WORDS));
    let model_opening = mean(recorded.iter().map(start));
    // Observed 0.74, 0.48 and 0.33.
    assert!(
        people > model + 0.15 && model > model_opening + 0.1,
        "{people} {model} {model_opening}"
    );
}

#[test]
fn after_calibration_the_person_agrees_with_itself_85_percent_of_the_time() {
    let recorded = recorded();
    let usual: Vec<(&Prompt, &str)> = recorded
        .iter()
        .map(|r| (r.prompt, r.by_the_model.as_str()))
        .collect();
    let mut user = SimulatedUser::new(demo(), &usual, 11, 0.0);
    let (mut same, mut up, mut total) = (0, 0, 0);
    for _ in 0..200 {
        for r in &recorded {
            let twice = [(); 2].map(|()| user.thumb(r.prompt, &r.by_the_model));
            same += usize::from(twice[0] == twice[1]);
            up += usize::from(twice[0] == Thumb::Up);
            total += 1;
        }
    }
    let agreement = same as f64 / f64::from(total);
    let liked = up as f64 / f64::from(total);
    // Three standard errors over 18 000 judgements are 0.008.
    assert!((agreement - SELF_AGREEMENT).abs() < 0.008, "{agreement}");
    assert!(
        (liked - demo().liked).abs() < 0.06,
        "about a quarter of what is usual is liked: {liked}"
    );
}
