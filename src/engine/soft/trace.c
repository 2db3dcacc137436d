#include "engine/soft/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/soft/mmu.h"
#include "engine/soft/translate/analyze.h"
#include "engine/soft/translate/native_string.h"

struct symbol {
    uint64_t address;
    char *name;
};

struct soft_trace {
    pthread_mutex_t lock; /* what belongs together stays together */
    FILE *log, *perf_map;
    struct symbol *symbol; /* sorted */
    size_t symbol_count;
};

static int compare_symbols(const void *a, const void *b)
{
    const struct symbol *x = a, *y = b;
    return x->address < y->address ? -1 : x->address > y->address;
}

static bool add_symbol(struct soft_trace *trace, size_t *capacity, uint64_t address,
                       const char *name)
{
    if (trace->symbol_count == *capacity) {
        size_t wanted = *capacity ? *capacity * 2 : 65536;
        struct symbol *grown = realloc(trace->symbol, wanted * sizeof(*grown));
        if (!grown) {
            return false;
        }
        trace->symbol = grown;
        *capacity = wanted;
    }
    char *copy = strdup(name);
    if (copy) {
        trace->symbol[trace->symbol_count++] = (struct symbol){address, copy};
    }
    return copy;
}

/* Lines of "ADDRESS TYPE NAME". */
static int read_symbols(struct soft_trace *trace, const char *path, struct error *err)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        return error_set_errno(err, errno, "opening the symbols of the guest, %s", path);
    }
    char line[512], type, name[256];
    uint64_t address;
    size_t capacity = 0;
    bool good = true;
    while (good && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "%" SCNx64 " %c %255s", &address, &type, name) == 3 &&
            strchr("tTwW", type)) {
            good = add_symbol(trace, &capacity, address, name);
        }
    }
    (void)fclose(file); /* was only read */
    if (!good) {
        return error_set(err, ENOMEM, "reading the symbols of the guest");
    }
    if (trace->symbol_count) {
        qsort(trace->symbol, trace->symbol_count, sizeof(*trace->symbol), compare_symbols);
    }
    return 0;
}

int soft_trace_create(const struct soft_trace_options *options, struct soft_trace **out_trace,
                      struct error *err)
{
    *out_trace = NULL;
    if (!*options->path && !options->has_perf_map) {
        return 0;
    }
    struct soft_trace *trace = calloc(1, sizeof(*trace));
    if (!trace) {
        return error_set(err, ENOMEM, "starting the trace");
    }
    pthread_mutex_init(&trace->lock, NULL);
    int rc = 0;
    if (*options->path) {
        trace->log = fopen(options->path, "we");
        rc = trace->log ? 0 : error_set_errno(err, errno, "opening the trace %s", options->path);
    }
    if (rc == 0 && options->has_perf_map) {
        char path[64];
        snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
        trace->perf_map = fopen(path, "wex");
        if (!trace->perf_map && errno == EEXIST && unlink(path) == 0) {
            trace->perf_map = fopen(path, "wex"); /* an old one; never what a link leads to */
        }
        rc = trace->perf_map ? 0 : error_set_errno(err, errno, "opening %s", path);
    }
    if (rc == 0 && *options->symbols) {
        rc = read_symbols(trace, options->symbols, err);
    }
    if (rc < 0) {
        soft_trace_destroy(trace);
        return rc;
    }
    *out_trace = trace;
    return 0;
}

void soft_trace_destroy(struct soft_trace *trace)
{
    if (!trace) {
        return;
    }
    if (trace->log) {
        (void)fclose(trace->log); /* nobody to tell */
    }
    if (trace->perf_map) {
        (void)fclose(trace->perf_map);
    }
    for (size_t i = 0; i < trace->symbol_count; i++) {
        free(trace->symbol[i].name);
    }
    free(trace->symbol);
    pthread_mutex_destroy(&trace->lock);
    free(trace);
}

/* "name+0x12", or "0x..." for what has none. */
static void name_of(const struct soft_trace *trace, uint64_t rip, char *out, size_t size)
{
    size_t low = 0, high = trace->symbol_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (trace->symbol[middle].address <= rip) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    /* Beyond the last one anything may be. */
    if (low && low < trace->symbol_count) {
        const struct symbol *symbol = &trace->symbol[low - 1];
        snprintf(out, size, "%s+0x%" PRIx64, symbol->name, rip - symbol->address);
    } else {
        snprintf(out, size, "0x%" PRIx64, rip);
    }
}

static void print_insn(FILE *log, uint64_t address, const uint8_t *bytes,
                       const struct x86_insn *insn, const char *remark)
{
    char text[128], hex[2 * X86_INSN_MAX_LENGTH + 1];
    for (uint32_t i = 0; i < insn->length; i++) {
        snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
    }
    x86_disassemble(insn, address, text, sizeof(text));
    fprintf(log, "  %12" PRIx64 "  %-24s %s%s\n", address, hex, text, remark);
}

static const char *stub_name(const struct soft_native *n, const uint8_t *code, bool *out_has_site)
{
    const struct {
        const uint8_t *code;
        const char *name;
        bool has_site;
    } stubs[] = {
        {n->interpret, "  ; interpret", true},
        {n->string, "  ; string", true},
        {n->syscall, "  ; syscall", true},
        {n->sysret, "  ; sysret", true},
        {n->iret, "  ; iret", true},
        {n->invlpg, "  ; invlpg", true},
        {n->page_fault, "  ; page fault, or interpret", true},
        {n->exit_at, "  ; exit", true},
        {n->cpuid, "  ; cpuid", true},
        {n->indirect, "  ; indirect", true},
        {n->indirect_shared, "  ; indirect", true},
        {n->make_link, "  ; link", false},
        {n->fill, "  ; fill the TLB", false},
        {n->load_vectors, "  ; load vectors", false},
        {n->load_x87, "  ; load x87", false},
    };
    *out_has_site = false;
    for (size_t i = 0; i < ARRAY_COUNT(stubs); i++) {
        if (stubs[i].code == code) {
            *out_has_site = stubs[i].has_site;
            return stubs[i].name;
        }
    }
    if (native_is_string_stub(n, code)) {
        *out_has_site = true;
        return "  ; string on the host";
    }
    return "";
}

/* A part of a block's code, addresses as they are executed. */
static void print_host_code(FILE *log, const struct soft_native *n, const uint8_t *start,
                            uint32_t size)
{
    uint32_t at = 0;
    while (at < size) {
        struct x86_insn insn;
        const uint8_t *code = start + at;
        uint32_t left = size - at;
        if (x86_decode(code, MIN(left, X86_INSN_MAX_LENGTH), X86_CODE_64, &insn) != X86_DECODE_OK) {
            fprintf(log, "  no instruction at +0x%x\n", at);
            return;
        }
        bool is_branch = insn.operand_count && insn.operand[0].kind == X86_OPERAND_REL;
        const uint8_t *target = code + insn.length + (int64_t)insn.imm;
        bool has_site = false;
        const char *name = is_branch ? stub_name(n, target, &has_site) : "";
        print_insn(log, (uint64_t)(uintptr_t)native_executable(n, code), code, &insn, name);
        at += insn.length;
        if (insn.id == X86_ID_CALL && has_site) {
            struct native_site site;
            memcpy(&site, start + at, sizeof(site));
            fprintf(log, "                site 0x%" PRIx64 ", 0x%" PRIx64 "\n", site.rip,
                    site.next);
            at += (uint32_t)sizeof(site);
        }
    }
}

void soft_trace_block(struct soft_trace *trace, const struct soft_vcpu *v,
                      const struct native_block *block, const struct native_source *source)
{
    const struct soft_native *n = v->native;
    char name[300];
    uint64_t base = native_is_shared(v, block->mode) ? v->rip & NATIVE_BASE_MASK : 0;
    uint64_t rip = native_block_rip(v, block) + base;
    name_of(trace, rip, name, sizeof(name));
    pthread_mutex_lock(&trace->lock);
    if (trace->perf_map) {
        fprintf(trace->perf_map,
                "%" PRIx64 " %x guest:%s\n"
                "%" PRIx64 " %x guest:%s,out-of-line\n",
                (uint64_t)(uintptr_t)native_executable(n, native_code(n, block)), block->code_size,
                name, (uint64_t)(uintptr_t)native_executable(n, native_cold(n, block)),
                block->cold_size, name);
        (void)fflush(trace->perf_map); /* perf reads it when the process may have gone */
    }
    if (trace->log) {
        fprintf(trace->log,
                "vcpu %u block %s rip 0x%" PRIx64 " gpa 0x%" PRIx64
                " mode 0x%x: %u instructions, %u and %u bytes of %u\n",
                v->vcpu.index, name, rip, (uint64_t)block->gpa, (unsigned)block->mode,
                source->count, block->code_size, block->cold_size, source->size_bytes);
        for (uint32_t i = 0; i < source->count; i++) {
            const struct native_insn *insn = &source->insn[i];
            print_insn(trace->log, native_rip(source, i) + base, source->copy + insn->offset,
                       &insn->insn, insn->kind == NATIVE_INTERPRET ? "  ; interpreted" : "");
        }
        fprintf(trace->log, "  host code\n");
        print_host_code(trace->log, n, native_code(n, block), block->code_size);
        fprintf(trace->log, "  out of line\n");
        print_host_code(trace->log, n, native_cold(n, block), block->cold_size);
    }
    pthread_mutex_unlock(&trace->lock);
}

bool soft_read_instruction(struct soft_vcpu *v, uint8_t out_bytes[X86_INSN_MAX_LENGTH],
                           struct x86_insn *out_insn)
{
    uint64_t gva = v->rip + v->segment_base[X86_CS];
    uint32_t size = 0;
    enum x86_decode_status status = X86_DECODE_MORE;
    while (size < X86_INSN_MAX_LENGTH && status == X86_DECODE_MORE) {
        uint64_t gpa;
        uint32_t error;
        if (!soft_probe_translate(v, gva + size, X86_ACCESS_FETCH, v->cpl == 3, false, &gpa,
                                  &error)) {
            return false;
        }
        struct soft_page page = soft_page_find(v->vm, align_down(gpa, GUEST_PAGE_SIZE));
        if (!page.slot) {
            return false;
        }
        uint32_t offset = (uint32_t)(gpa % GUEST_PAGE_SIZE);
        uint32_t part = MIN(X86_INSN_MAX_LENGTH - size, GUEST_PAGE_SIZE - offset);
        memcpy(out_bytes + size, page.hva + offset, part);
        size += part;
        status = x86_decode(out_bytes, size, soft_decode_as(v->vm, v->code_size), out_insn);
    }
    return status == X86_DECODE_OK;
}

bool soft_is_at_repetition(struct soft_vcpu *v)
{
    struct x86_insn insn;
    uint8_t bytes[X86_INSN_MAX_LENGTH];
    return soft_read_instruction(v, bytes, &insn) &&
           x86_rows[insn.row].attributes & X86_ROW_STRING &&
           insn.prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE);
}

void soft_trace_interpreted(struct soft_trace *trace, struct soft_vcpu *v, const char *reason)
{
    if (!trace->log) {
        return;
    }
    struct x86_insn insn;
    uint8_t bytes[X86_INSN_MAX_LENGTH];
    char text[128] = "(cannot be read)", name[300];
    name_of(trace, v->rip, name, sizeof(name));
    if (soft_read_instruction(v, bytes, &insn)) {
        x86_disassemble(&insn, v->rip, text, sizeof(text));
        if (!reason) {
            reason = v->native && native_has_template(v, &insn)
                         ? "its access is not in the TLB, or faults"
                         : "there is no template for it";
        }
    }
    pthread_mutex_lock(&trace->lock);
    fprintf(trace->log, "vcpu %u interprets %s 0x%" PRIx64 ": %s: %s\n", v->vcpu.index, name,
            v->rip, text, reason ? reason : "it cannot be fetched");
    pthread_mutex_unlock(&trace->lock);
}

void soft_trace_note(struct soft_trace *trace, const struct soft_vcpu *v, const char *text)
{
    if (trace->log) {
        fprintf(trace->log, "vcpu %u: %s\n", v->vcpu.index, text);
        (void)fflush(trace->log); /* the process may be about to end */
    }
}
