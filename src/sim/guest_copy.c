/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Copies of guests' memory without the pages that are zeros, which are most: for guests that share
 * a slot, and for images. A copy is one block: its pages, then of each the lines of 64 bytes that
 * the page of the slot's model does not have in the same place; a model has all of them. Pages that
 * nobody reads before they are written (below a stack's pointer, within a free block) are dead:
 * they are listed without a line, and not looked at.
 */
#include <string.h>

#include "sim/guest_state.h"

#define COPY_PAGE_BYTES 4096u
#define COPY_LINE_BYTES 64u
#define COPY_LINES_PER_PAGE (COPY_PAGE_BYTES / COPY_LINE_BYTES)
#define COPY_GROUP_LINES 8u
#define COPY_GROUP_BITS ((UINT64_C(1) << COPY_GROUP_LINES) - 1)

static_assert(COPY_LINES_PER_PAGE == 64, "a bit for each line");
static_assert(SIM_GUEST_SLOT_BYTES / COPY_PAGE_BYTES == SIM_GUEST_COPY_PAGES,
              "whatever a slot holds can be listed");

/* By what the processor has for that. */
static bool copy_is_zero(const uint8_t *page) {
    static const uint8_t zeros[COPY_PAGE_BYTES];
    return memcmp(page, zeros, sizeof(zeros)) == 0;
}

/* Which of so many lines are the same in both: bits. */
static uint64_t lines_same(const uint8_t *a, const uint8_t *b, unsigned count) {
    uint64_t same = 0;
    for (unsigned i = 0; i < count; i += 1) {
        const size_t at = (size_t)i * COPY_LINE_BYTES;
        same |= (uint64_t)(memcmp(a + at, b + at, COPY_LINE_BYTES) == 0) << i;
    }
    return same;
}

/* The same of two pages. Mostly a few lines differ: all are looked at in groups first. */
static uint64_t copy_same(const uint8_t *a, const uint8_t *b) {
    uint64_t same = 0;
    for (unsigned i = 0; i < COPY_LINES_PER_PAGE; i += COPY_GROUP_LINES) {
        const size_t at = (size_t)i * COPY_LINE_BYTES;
        bool is_same = memcmp(a + at, b + at, COPY_GROUP_LINES * COPY_LINE_BYTES) == 0;
        same |= (is_same ? COPY_GROUP_BITS : lines_same(a + at, b + at, COPY_GROUP_LINES)) << i;
    }
    return same;
}

static size_t copy_block_bytes(const struct sim_guest_copy *copy) {
    return copy->page_count * sizeof(struct sim_guest_page) + copy->line_count * COPY_LINE_BYTES;
}

/* Those of a page's lines that the copy has itself. */
static uint64_t copy_own(const struct sim_guest_page *page) {
    KELPIE_ASSERT(page->model != NULL || page->same == 0);
    return page->is_dead ? 0 : ~page->same;
}

static uint8_t *copy_first_line(const struct sim_guest_copy *copy) {
    return (uint8_t *)(copy->pages + copy->page_count);
}

static void copy_pack(struct sim_guest_copy *copy, const uint8_t *bytes) {
    uint8_t *out = copy_first_line(copy);
    for (uint32_t i = 0; i < copy->page_count; i += 1) {
        const uint8_t *page = bytes + copy->pages[i].number * COPY_PAGE_BYTES;
        copy->pages[i].kept = out;
        /* bound: the bits */
        for (uint64_t left = copy_own(&copy->pages[i]); left != 0; left &= left - 1) {
            size_t line = (size_t)__builtin_ctzll(left);
            memcpy(out, page + line * COPY_LINE_BYTES, COPY_LINE_BYTES);
            out += COPY_LINE_BYTES;
        }
    }
    KELPIE_ASSERT(out == (uint8_t *)copy->pages + copy_block_bytes(copy));
}

/* ---- what nobody reads ----------------------------------------------------------------------- */

/* The whole pages of [from, to), in bytes from the slot's base. */
static void dead_mark(uint64_t *dead, size_t from, size_t to) {
    size_t end = to / COPY_PAGE_BYTES;
    KELPIE_ASSERT(from <= to && end <= SIM_GUEST_COPY_PAGES);
    for (size_t page = (from + COPY_PAGE_BYTES - 1) / COPY_PAGE_BYTES; page < end; page += 1) {
        dead[page / 64] |= UINT64_C(1) << page % 64;
    }
}

/* What is not between its reader and its writer. */
static void dead_find_queue(const struct sim_queue *queue, const uint8_t *bytes, uint64_t *dead) {
    size_t base = (size_t)(queue->bytes - bytes);
    size_t first = base + (size_t)(queue->taken & (queue->capacity - 1));
    size_t end = base + (size_t)(queue->written & (queue->capacity - 1));
    KELPIE_ASSERT(queue->written - queue->taken <= queue->capacity);
    if (queue->written == queue->taken) {
        dead_mark(dead, base, base + queue->capacity);
    } else if (first < end) {
        dead_mark(dead, base, first);
        dead_mark(dead, end, base + queue->capacity);
    } else {
        dead_mark(dead, end, first);
    }
}

static void dead_find(const struct sim_machine *machine, const uint8_t *bytes, uint64_t *dead) {
    const struct sim_kernel *kernel = machine->guest->kernel;
    const struct sim_process *process = machine->processes;
    for (; process != NULL; process = process->next) { /* bound: the list */
        const uint8_t *stack = process->fiber.stack;
        const uint8_t *pointer = process->fiber.pointer; /* NULL: it runs */
        if (stack != NULL && pointer != NULL) {
            KELPIE_ASSERT(pointer > stack && pointer - stack < (int64_t)SIM_GUEST_SLOT_BYTES);
            size_t from = (size_t)(stack - bytes);
            size_t used = (size_t)(pointer - bytes) - SIM_FIBER_RED_ZONE_BYTES;
            dead_mark(dead, from, used < from ? from : used);
        }
    }
    size_t scratch_bytes = 0;
    const uint8_t *scratch = kelpie__sim_disk_scratch(machine->disk, &scratch_bytes);
    if (scratch != NULL) {
        dead_mark(dead, (size_t)(scratch - bytes), (size_t)(scratch - bytes) + scratch_bytes);
    }
    dead_find_queue(&kernel->to_guest, bytes, dead);
    dead_find_queue(&kernel->to_host, bytes, dead);
    dead_find_queue(&kernel->console, bytes, dead);
    for (size_t class = 0; class < SIM_HEAP_CLASS_COUNT; class += 1) {
        const void *block = NULL;
        size_t count = 0;
        /* bound: the class's list */
        while ((block = kelpie__sim_heap_free_next(machine->heap, class, block, &count)) != NULL) {
            size_t from = (size_t)((const uint8_t *)block - bytes);
            dead_mark(dead, from + SIM_HEAP_FREE_BYTES, from + count);
        }
    }
}

/* ---- models ---------------------------------------------------------------------------------- */

/* The copy's page of this number, asked for with growing numbers; NULL: it does not list it. */
static const struct sim_guest_page *copy_page(const struct sim_guest_copy *copy, uint64_t number,
                                              uint32_t *inout_next) {
    while (*inout_next < copy->page_count && copy->pages[*inout_next].number < number) {
        *inout_next += 1;
    }
    bool has = *inout_next < copy->page_count && copy->pages[*inout_next].number == number;
    return has ? &copy->pages[*inout_next] : NULL;
}

/* ---- copies ---------------------------------------------------------------------------------- */

/* Guests of one slot have most of their memory in common: what the same kernel and agent have laid
 * out there. And a guest that makes room for its image has hardly changed since that was taken. */
static void copy_compare(struct sim_guest_page *page, const struct sim_guest_page *model,
                         const uint8_t *bytes) {
    if (model != NULL && !model->is_dead) {
        KELPIE_ASSERT(model->model == NULL);
        page->model = model;
        page->same = copy_same(bytes, model->kept);
    }
}

static void copy_list(struct sim_guest_copy *copy, struct sim_guest_copy_scratch *scratch,
                      const struct sim_guest_copy *model, const uint8_t *bytes) {
    uint32_t next = 0;
    for (size_t at = 0; at < copy->extent; at += COPY_PAGE_BYTES) {
        size_t number = at / COPY_PAGE_BYTES;
        struct sim_guest_page page = {.number = number};
        page.is_dead = (scratch->dead[number / 64] >> number % 64 & 1) != 0;
        if (!page.is_dead) {
            copy_compare(&page, copy_page(model, number, &next), bytes + at);
            if (page.model == NULL && copy_is_zero(bytes + at)) {
                continue;
            }
        }
        scratch->pages[copy->page_count] = page;
        copy->page_count += 1;
        copy->line_count += (uint32_t)__builtin_popcountll(copy_own(&page));
    }
}

/* Slots begin at a page and are made of whole ones. */
bool kelpie__sim_guest_copy_fill(struct sim_guest_copy *copy, struct sim_heap *heap,
                                 struct sim_guest_copy_scratch *scratch,
                                 const struct sim_guest_copy *model,
                                 const struct sim_machine *machine) {
    uint8_t *bytes = (uint8_t *)machine->heap; /* at the base of its slot */
    size_t extent = kelpie__sim_heap_extent(machine->heap);
    KELPIE_ASSERT(copy->pages == NULL && extent <= SIM_GUEST_SLOT_BYTES);
    kelpie__sim_fiber_forget(bytes, extent); /* stacks in the middle of calls: all of it is read */
    *copy = (struct sim_guest_copy){.heap = heap, .extent = extent};
    memset(scratch->dead, 0, (extent / COPY_PAGE_BYTES / 64 + 1) * sizeof(scratch->dead[0]));
    dead_find(machine, bytes, scratch->dead);
    copy_list(copy, scratch, model, bytes);
    copy->pages = kelpie__sim_heap_alloc_raw(heap, copy_block_bytes(copy));
    if (copy->pages == NULL) {
        return false;
    }
    memcpy(copy->pages, scratch->pages, copy->page_count * sizeof(scratch->pages[0]));
    copy_pack(copy, bytes);
    return true;
}

/* The lines of a page that are in the range already: what lies there now shares them with the
 * model. `before`: its page; NULL: nobody knows what lies there. */
static uint64_t copy_lines_there(const struct sim_guest_page *page,
                                 const struct sim_guest_page *before) {
    if (before == NULL || before->model == NULL) {
        return 0;
    }
    uint64_t same = before->model == page->model ? page->same : 0;
    same = before->model == page ? UINT64_MAX : same; /* it is the model */
    return before->same & same;
}

/* Gives the first line behind those of the page. `there`: lines that need no writing. */
static const uint8_t *copy_unpack(const struct sim_guest_page *page, const uint8_t *line,
                                  uint64_t there, uint8_t *out) {
    uint64_t own = copy_own(page);
    KELPIE_ASSERT(!page->is_dead);
    for (uint64_t left = page->same & ~there; left != 0; left &= left - 1) { /* bound: the bits */
        size_t at = (size_t)__builtin_ctzll(left) * COPY_LINE_BYTES;
        memcpy(out + at, page->model->kept + at, COPY_LINE_BYTES);
    }
    for (; own != 0; own &= own - 1) { /* bound: the bits */
        size_t at = (size_t)__builtin_ctzll(own) * COPY_LINE_BYTES;
        if ((there >> at / COPY_LINE_BYTES & 1) == 0) {
            memcpy(out + at, line, COPY_LINE_BYTES);
        }
        line += COPY_LINE_BYTES;
    }
    return line;
}

static size_t copy_extent_pages(size_t bytes) {
    return (bytes + COPY_PAGE_BYTES - 1) / COPY_PAGE_BYTES;
}

/* A page that the copy does not list is zero there. What is zero in the range, too, is not written
 * to: a page that nobody has touched takes no memory. Asked for with growing numbers. */
static void copy_clear_page(const struct sim_guest_copy *copy, uint8_t *bytes, uint64_t number,
                            uint32_t *inout_next) {
    uint8_t *page = bytes + number * COPY_PAGE_BYTES;
    if (copy_page(copy, number, inout_next) == NULL && !copy_is_zero(page)) {
        memset(page, 0, COPY_PAGE_BYTES);
    }
}

/* What may be anything but zero: the pages that `before` lists, dead ones too, and those behind its
 * extent, which earlier guests of the range have left. */
static void copy_clear(const struct sim_guest_copy *copy, const struct sim_guest_copy *before,
                       uint8_t *bytes, size_t used) {
    size_t end = copy_extent_pages(used < copy->extent ? used : copy->extent);
    uint32_t listed = before == NULL ? 0 : before->page_count;
    uint32_t next = 0;
    for (uint32_t i = 0; i < listed && before->pages[i].number < end; i += 1) {
        copy_clear_page(copy, bytes, before->pages[i].number, &next);
    }
    for (size_t i = before == NULL ? 0 : copy_extent_pages(before->extent); i < end; i += 1) {
        copy_clear_page(copy, bytes, i, &next);
    }
}

void kelpie__sim_guest_copy_restore(const struct sim_guest_copy *copy, void *base,
                                    const struct sim_guest_copy *before) {
    uint8_t *bytes = base;
    size_t used = kelpie__sim_heap_used(base);
    const uint8_t *line = copy_first_line(copy);
    /* Stacks lie in there, and the address sanitizer remembers what lay on them. */
    kelpie__sim_fiber_forget(base, used > copy->extent ? used : copy->extent);
    uint32_t next = 0;
    copy_clear(copy, before, bytes, used);
    for (uint32_t i = 0; i < copy->page_count; i += 1) {
        const struct sim_guest_page *page = &copy->pages[i];
        if (!page->is_dead) {
            const struct sim_guest_page *old =
                before == NULL ? NULL : copy_page(before, page->number, &next);
            line = copy_unpack(page, line, copy_lines_there(page, old),
                               bytes + page->number * COPY_PAGE_BYTES);
        }
    }
    KELPIE_ASSERT(line == (const uint8_t *)copy->pages + copy_block_bytes(copy));
    kelpie__sim_heap_copied(base, used);
}

void kelpie__sim_guest_copy_drop(struct sim_guest_copy *copy) {
    if (copy->pages != NULL) {
        kelpie__sim_heap_free(copy->heap, copy->pages, copy_block_bytes(copy));
    }
    *copy = (struct sim_guest_copy){0};
}
