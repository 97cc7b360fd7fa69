// A plugin of qemu's user emulation that counts what an aarch64 program executes: all instructions, and those that multiply and add
// vectors or single numbers. Only what qemu's plugin interface (version 1) has is declared here, since distributions ship no header.
//
// See scripts/count-arm.

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t qemu_plugin_id_t;
enum { INLINE_ADD_U64 = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, void (*on_block)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *insn, int op, void *counter, uint64_t amount);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*on_exit)(qemu_plugin_id_t, void *), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
char *qemu_plugin_insn_disas(const struct qemu_plugin_insn *insn);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

// The first is counted for every instruction; each other one for instructions that begin with its name.
static struct {
    const char *name;
    uint64_t count;
} kinds[] = {{"all", 0}, {"fmla", 0}, {"bfdot", 0}, {"bfmmla", 0}, {"sdot", 0}, {"smmla", 0}, {"fmadd", 0}, {"fmul", 0}};

static void on_block(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
        char *text = qemu_plugin_insn_disas(insn);
        for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
            size_t length = strlen(kinds[kind].name);
            bool is_one = kind == 0 || (strncmp(text, kinds[kind].name, length) == 0 && text[length] == ' ');
            if (is_one) {
                qemu_plugin_register_vcpu_insn_exec_inline(insn, INLINE_ADD_U64, &kinds[kind].count, 1);
            }
        }
        free(text);
    }
}

static void on_exit_(qemu_plugin_id_t id, void *data) {
    (void)id;
    (void)data;
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        fprintf(stderr, "%s %" PRIu64 "\n", kinds[kind].name, kinds[kind].count);
    }
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv) {
    (void)info;
    (void)argc;
    (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_block);
    qemu_plugin_register_atexit_cb(id, on_exit_, NULL);
    return 0;
}
