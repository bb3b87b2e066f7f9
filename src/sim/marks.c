/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See marks.h. Every mark is an object of the section kelpie_marks, whose bounds the linker names.
 */
#include "sim/marks.h"
#include "os/os_mark.h"

#ifdef KELPIE_SIMULATION

extern const struct kelpie_mark __start_kelpie_marks[];
extern const struct kelpie_mark __stop_kelpie_marks[];

uint32_t kelpie__sim_marks_count(void) {
    size_t count = (size_t)(__stop_kelpie_marks - __start_kelpie_marks);
    KELPIE_ASSERT(count <= SIM_MARK_MAX);
    return (uint32_t)count;
}

const char *kelpie__sim_marks_name(uint32_t index) {
    KELPIE_ASSERT(index < kelpie__sim_marks_count());
    return __start_kelpie_marks[index].name;
}

void kelpie__sim_marks_add(struct sim_marks *marks, const struct kelpie_mark *mark) {
    size_t index = (size_t)(mark - __start_kelpie_marks);
    KELPIE_ASSERT(index < kelpie__sim_marks_count());
    marks->words[index / 64] |= UINT64_C(1) << (index % 64);
}

#else

uint32_t kelpie__sim_marks_count(void) {
    return 0;
}

const char *kelpie__sim_marks_name(uint32_t index) {
    (void)index;
    return "";
}

void kelpie__sim_marks_add(struct sim_marks *marks, const struct kelpie_mark *mark) {
    (void)marks;
    (void)mark;
}

#endif

bool kelpie__sim_marks_has(const struct sim_marks *marks, uint32_t index) {
    KELPIE_ASSERT(index < SIM_MARK_MAX);
    return (marks->words[index / 64] >> (index % 64) & 1) != 0;
}
