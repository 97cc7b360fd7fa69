"""Tests of scripts/check_swift.py, run by scripts/test-swift in the venv that it needs."""

import unittest

import check_swift

GENERATED = """
open class Thing: ThingProtocol, @unchecked Sendable {
    public static func open(options: Options)throws  -> Thing  { return try f(options) }
    open func edit(text: String, at place: Int? = nil)throws  -> Int64  { return 1 }
}
public struct Options: Equatable {
    public let path: String
    public let key: Data?
    public init(path: String, key: Data? = nil) {}
}
public enum Kind: Equatable { case up
    case down(reasons: [String], n: Int64)
}
public func machine() -> Options  { return f() }
"""


class CheckSwift(unittest.TestCase):
    def problems(self, text):
        found, _ = check_swift.check_uses(text, check_swift.Interface.of(GENERATED))
        return found

    def test_what_parses_is_fine_and_what_does_not_is_named_with_its_line(self):
        self.assertEqual(check_swift.syntax_errors("let a = b?.c\n"), [])
        self.assertEqual(len(check_swift.syntax_errors("let a = 1\nlet b = = 2\n")), 1)
        self.assertTrue(check_swift.syntax_errors("let a = 1\nlet b = = 2\n")[0].startswith("2: "))

    def test_what_uniffi_writes_and_the_grammar_does_not_know_is_blanked(self):
        text = "struct A {\n#if swift(>=5.8)\n    @_documentation(visibility: private)\n#endif\n    static func f() {}\n    let w = { () }\n}\n"
        self.assertEqual(check_swift.syntax_errors(text), [])
        self.assertEqual(check_swift.as_the_grammar_knows_it(text).count("\n"), text.count("\n"))

    def test_calls_with_the_interfaces_labels_are_fine(self):
        self.assertEqual(self.problems('let a = try inner.edit(text: "a")\nlet b = try inner.edit(text: "a", at: 1)\n'), [])
        self.assertEqual(self.problems('let a = try ThumbprintFFI.Thing.open(options: ThumbprintFFI.Options(path: "a", key: nil))\n'), [])
        self.assertEqual(self.problems("let a = ThumbprintFFI.machine()\n"), [])

    def test_names_and_labels_that_are_not_there_are_problems(self):
        for text in (
            'let a = try inner.edit(words: "a")\n',
            'let a = try inner.edit(at: 1, text: "a")\n',
            "let a = try inner.edit()\n",
            'let a = try inner.change(text: "a")\n',
            "let a = ThumbprintFFI.Options(key: nil)\n",
            "let a = ThumbprintFFI.phone()\n",
            "let a: ThumbprintFFI.Gone\n",
        ):
            self.assertEqual(len(self.problems(text)), 1, text)

    def test_a_conversion_reads_fields_and_tells_cases_that_are_there(self):
        fields = "extension A {{ init(_ o: ThumbprintFFI.Options) {{ self.init(a: o.{}) }} }}\n"
        self.assertEqual(self.problems(fields.format("path")), [])
        self.assertEqual(len(self.problems(fields.format("folder"))), 1)
        cases = "extension A {{ init(_ k: ThumbprintFFI.Kind) {{ switch k {{ case .up: self = .a\n case .{}: self = .b }} }} }}\n"
        self.assertEqual(self.problems(cases.format("down(let r, let n)")), [])
        self.assertEqual(len(self.problems(cases.format("down(let r)"))), 1)
        # One that is not there, and the one that is left out for it.
        self.assertEqual(len(self.problems(cases.format("sideways"))), 2)

    def test_snippets_are_found_with_their_lines(self):
        page = "# A\n```swift\nlet a = 1\n```\n```sh\nno\n```\n```swift swiftui\nlet b = 2\n```\n"
        self.assertEqual(check_swift.swift_snippets(page), [(3, "let a = 1\n"), (9, "let b = 2\n")])


if __name__ == "__main__":
    unittest.main()
