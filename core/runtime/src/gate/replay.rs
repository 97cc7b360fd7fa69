//! Prompts and passages that have nothing to do with anybody's taste, for use in training, so that a taste does not push out
//! everything else. Written for this library; disjoint from those of the guards ([`super::neutral`]), which would otherwise
//! measure what was trained.

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

/// Plain prose on which an adapter is held to the base's predictions ([`thumbprint_tune::example::Kind::Anchor`]).
pub const PASSAGES: &[&str] = &[
    "The market opens before dawn. Farmers unload crates of cabbages and onions while the square is still dark, and the first \
     buyers walk from stall to stall with lanterns, asking what came in during the night.",
    "Iron rusts when water and air reach it together. A coat of paint keeps both away, and so does a thin layer of zinc, which \
     corrodes in place of the iron beneath it.",
    "My uncle drove the same van for thirty years. When the doors no longer closed he tied them with rope, and when the radio \
     fell silent he sang.",
    "Parliament passed the bill by eleven votes. Members from the coast had asked for a delay, since the new limits on fishing \
     would take effect in the middle of the season.",
    "A glacier is a river of ice that moves a few centimetres a day. As it slides it scrapes the rock below, and the stones \
     that it carries are left in long ridges where it melts.",
    "The tailor chalked the cloth, cut along the line, and pinned the sleeves before sewing anything. A coat that is tried on \
     twice, he used to say, is worn for twenty years.",
    "To divide by a fraction, turn it over and multiply. Six divided by one half is twelve, because there are twelve halves in \
     six whole things.",
    "Owls hear a mouse under the snow from thirty metres away. One ear sits a little higher than the other, so that a sound \
     from below reaches them at slightly different times.",
    "The hotel had been a convent and later a hospital. Its corridors were wide enough for two carts, and every window on the \
     south side looked over the same small orchard.",
    "Paper money was first used where coins had become too heavy to carry. Merchants left their strings of coins with someone \
     whom they trusted and passed the receipts from hand to hand.",
    "During the second week the team found a wall of fired brick, two metres below the present street. Coins from the layer \
     above it show that it was already buried by the year 300.",
    "Yeast eats sugar and gives off gas. In dough the gas is caught in bubbles, which grow in the warmth of the oven until the \
     crumb around them sets.",
];
