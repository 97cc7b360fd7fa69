//! Prompts whose answers by the base itself are replayed in training, so that a taste does not push out everything else.
//! Written for this library; disjoint from the prompts of the guards ([`super::neutral`]), which would otherwise measure
//! what was trained.

/// Neutral instructions: the base's own samples on them (temperature 1, top-p 1) are trained on by plain NLL.
pub const PROMPTS: &[&str] = &[
    "Write a few lines about a walk through a forest in spring.",
    "Explain how a clock with a pendulum keeps time.",
    "Tell me about the life of a honeybee.",
    "List four things that can be made from wool.",
    "Put this sentence into the future tense: She opens the window.",
    "What is 144 divided by 12?",
    "Describe an old house at the edge of a village.",
    "Suggest a name for a small sailing boat.",
    "Translate 'thank you very much' into Spanish.",
    "Compare a bicycle with a motorcycle.",
    "Write a Python function that returns the sum of a list.",
    "Why does metal feel colder than wood?",
    "Write a letter that thanks a neighbour for feeding the cat.",
    "Name three countries in South America.",
    "Tell a short story about a clever crow.",
    "How is cheese made?",
    "Sort these words alphabetically: river, apple, stone, candle.",
    "Explain how to play hide and seek.",
    "What are the good and bad sides of working at night?",
    "Write the last line of a fairy tale.",
    "Correct the grammar: Him and me goes to school together.",
    "What is the opposite of 'generous'?",
    "Explain what a map scale is to a child.",
    "Write a conversation between a customer and a florist.",
    "Which planet is closest to the sun?",
    "Describe the sound of rain on a tin roof.",
    "Write an HTML page with one heading and one paragraph.",
    "Give three reasons to visit a museum.",
    "What is the difference between a lake and a pond?",
    "Write a short announcement for a school concert.",
];
