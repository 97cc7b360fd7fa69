//! Texts and prompts of the guards, unrelated to anybody's taste. Written for this library; nothing here may be trained
//! on (that is what [`super::replay`] is for).

/// Short passages of plain prose for neutral perplexity.
pub const TEXTS: &[&str] = &[
    "The river rises in a marsh high in the hills, where the snow lies until late spring. For the first few miles it is \
     no wider than a cart. By the time it reaches the plain, two smaller streams have joined it and barges can pass.",
    "A carpenter measures twice because wood cannot be made longer. The first measurement finds the length that is \
     wanted; the second finds the mistake in the first.",
    "Copper has been worked for more than nine thousand years. It is soft enough to be hammered cold, and it hardens as it \
     is worked. Mixed with a little tin it becomes bronze, which keeps an edge far better than either metal alone.",
    "The night train left the capital at ten minutes past nine. Most of the passengers had already folded down their beds, \
     and the corridor smelled of oranges and wet coats.",
    "Bees tell one another where flowers are by dancing on the comb. The angle of the dance gives the direction with \
     respect to the sun, and its length gives the distance. Other bees follow the dancer in the dark, touching her with \
     their antennae.",
    "The committee met on Tuesday to discuss the new bridge. Three designs were presented, and the cheapest was set aside \
     because it would have closed the harbour to sailing boats for two summers.",
    "To find the area of a triangle, multiply its base by its height and divide by two. The rule holds for every triangle, \
     because two copies of it always make a parallelogram.",
    "My grandmother kept her letters in a biscuit tin under the stairs. After she died we read them aloud, one each \
     evening, and learned that she had once meant to become a pilot.",
    "Glass is made by melting sand with soda and lime. The soda lowers the temperature at which the sand melts, and the \
     lime keeps the result from dissolving in water. Small amounts of metal give it colour.",
    "The old harbour was too shallow for modern ships, so a new one was dug to the north. The warehouses along the former \
     quay stood empty for a decade before painters and bakers moved in.",
    "Most deserts are not covered with sand. Wind carries the fine grains away and leaves gravel and bare rock, which are \
     much harder to cross than dunes.",
    "An election was called for the first week of June. Both parties promised lower rents, though neither explained where \
     the new houses would stand.",
    "A violin has about seventy parts. The front is made of spruce and the back of maple, and a small post of wood stands \
     between them inside the body. Moving that post by a hair's breadth changes the sound of the whole instrument.",
    "When the tide goes out, the pools among the rocks hold shrimps, small crabs and sea anemones. The water in them warms \
     quickly, so only animals that can bear a change of temperature live there.",
    "The first printed books imitated handwriting so closely that buyers could hardly tell the difference. Printers left \
     gaps for large initials, which were then painted in by hand.",
    "She opened the shop at seven, swept the step, and set out the baskets of apples. By eight the street was full, and by \
     noon she had sold everything except one cracked jug.",
    "A computer stores numbers as patterns of two states, usually written as zero and one. Eight such digits make a byte, \
     which can hold any whole number from 0 to 255.",
    "In the far north the sun does not set for several weeks in summer. People hang heavy curtains, and farmers cut hay at \
     midnight.",
    "The law requires every landlord to return a deposit within thirty days. If part of it is kept, the reason has to be \
     given in writing, together with the receipts.",
    "Salt was once so valuable that towns grew rich by taxing its transport. Roads were named after it, and in some places \
     soldiers received part of their pay in it.",
    "The patient was asked to rest for two days and to avoid lifting. At the second visit the swelling had gone down and \
     the joint moved freely.",
    "Clouds form when moist air rises and cools. The vapour settles on tiny grains of dust, and the drops that result are \
     so small that the slightest upward movement of the air holds them aloft.",
    "After the war the theatre was rebuilt on the same foundations. The architect kept the old staircase, although it led \
     to a floor that no longer existed, because the citizens were fond of it.",
    "The match ended without a goal. In the second half the home side struck the post twice, and a late free kick was \
     turned over the bar by the goalkeeper.",
    "Chess probably began in India and travelled west along the trade routes. The piece that is now the queen was once a \
     weak adviser who moved a single square at a time.",
    "A loan of one thousand at an interest rate of five percent grows to one thousand and fifty after one year. If nothing \
     is repaid, the interest of the second year is counted on the larger sum.",
    "The lighthouse stands on a rock that is covered at high water. It took four summers to lay the first twelve courses of \
     stone, since the men could work for only a few hours on each tide.",
    "Wolves live in family groups and share the care of the young. A pack rarely has more than ten members, and it needs a \
     territory large enough to feed them through the winter.",
    "The library lends books for three weeks. A loan can be renewed twice unless another reader has asked for the same \
     book.",
    "Early maps of the coast were drawn by sailors who measured nothing on land. They show every bay and headland with \
     care, while the mountains behind are only a row of little mounds.",
];

/// Instructions for KL on neutral prompts, and for sampling what the guards look at.
pub const PROMPTS: &[&str] = &[
    "Write a short poem about the first snow of the year.",
    "Explain how a suspension bridge carries its load.",
    "Summarise the story of Little Red Riding Hood.",
    "List five animals that are active at night.",
    "Rewrite this sentence in the past tense: The boys carry the boxes upstairs.",
    "What is 17 times 6?",
    "Describe a busy market in the morning.",
    "Give me a title for a novel about two rival bakers.",
    "Translate 'good evening' into French.",
    "Compare a desert with a rainforest.",
    "Write a Python function that counts the vowels in a word.",
    "What happens to a liquid when it evaporates?",
    "Write a polite email that asks for a meeting to be moved to Friday.",
    "Name three instruments that have strings.",
    "Tell a story about a lost umbrella.",
    "How is paper made?",
    "Classify these as fruit or vegetable: carrot, plum, spinach, cherry.",
    "Explain the rules of noughts and crosses.",
    "What are the advantages and disadvantages of living on an island?",
    "Write the opening line of a detective story.",
    "Correct the spelling: The wether was beautifull yesterday.",
    "What is the plural of 'mouse'?",
    "Explain what a budget is to a ten-year-old.",
    "Write a dialogue between a teacher and a student who is late.",
    "Which is heavier, a litre of water or a litre of oil?",
    "Describe the taste of a lemon without using the word 'sour'.",
    "Write an SQL query that selects all customers from Lisbon.",
    "Give three reasons to learn a second language.",
    "Order these from smallest to largest: planet, atom, whale, grain of sand.",
    "Write a slogan for a shop that repairs shoes.",
];

#[cfg(test)]
mod tests {
    use super::super::replay;
    use super::*;

    #[test]
    fn what_guards_is_never_trained_on_and_nothing_stands_twice() {
        let mut all = [TEXTS, PROMPTS, replay::PROMPTS, replay::PASSAGES].concat();
        let total = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), total);
        assert_eq!(
            [
                TEXTS.len(),
                PROMPTS.len(),
                replay::PROMPTS.len(),
                replay::PASSAGES.len()
            ],
            [30, 30, 149, 24]
        );
    }

    #[test]
    fn no_passage_is_broken_by_its_line_ends() {
        for text in [TEXTS, replay::PASSAGES].concat() {
            assert!(!text.contains("  ") && !text.contains('\n'), "{text}");
            assert!(text.split_whitespace().count() >= 20, "{text}");
        }
    }
}
