/* A stack of free indices, and one of those whose freeing was not told; for each page a count of
 * holders and the forms of its rows. */
#include "sched/pages.h"

#include "base/base.h"

size_t pages_bytes(uint32_t page_n)
{
    return (size_t)page_n * 3 * sizeof(uint32_t)        /* free_ids, freed_ids and refs */
           + page_n * (sizeof(uint8_t) + sizeof(bool)); /* forms, is_freed */
}

void pages_init(struct pages *pages, uint32_t page_n, void *memory)
{
    pages->page_n = page_n;
    pages->free_n = page_n;
    pages->free_ids = memory;
    pages->refs = pages->free_ids + page_n;
    pages->freed_ids = pages->refs + page_n;
    pages->forms = (uint8_t *)(pages->freed_ids + page_n);
    pages->is_freed = (bool *)(pages->forms + page_n);
    pages->freed_n = 0;
    for (uint32_t i = 0; i < page_n; i++) {
        pages->free_ids[i] = page_n - 1 - i; /* page 0 is handed out first */
        pages->refs[i] = 0;
        pages->forms[i] = 0;
        pages->is_freed[i] = false;
    }
}

bool pages_take(struct pages *pages, uint32_t *out_page)
{
    if (pages->free_n == 0) {
        return false;
    }
    uint32_t page = pages->free_ids[--pages->free_n];
    ASSERT_CMP(pages->refs[page], ==, 0);
    pages->refs[page] = 1;
    *out_page = page;
    return true;
}

void pages_mark(struct pages *pages, uint32_t page, enum page_forms form)
{
    ASSERT_CMP(page, <, pages->page_n);
    ASSERT_CMP(pages->refs[page], ==, 1);
    pages->forms[page] |= (uint8_t)form;
}

void pages_share(struct pages *pages, uint32_t page)
{
    ASSERT_CMP(page, <, pages->page_n);
    ASSERT_CMP(pages->refs[page], >, 0);
    ASSERT((pages->forms[page] & PAGE_GENERATED) == 0);
    pages->refs[page]++;
}

void pages_drop(struct pages *pages, uint32_t page)
{
    ASSERT_CMP(page, <, pages->page_n);
    ASSERT_CMP(pages->refs[page], >, 0);
    if (--pages->refs[page] == 0) {
        pages->forms[page] = 0;
        pages->free_ids[pages->free_n++] = page;
        if (!pages->is_freed[page]) {
            pages->is_freed[page] = true;
            pages->freed_ids[pages->freed_n++] = page;
        }
    }
}

bool pages_next_freed(struct pages *pages, uint32_t *out_page)
{
    if (pages->freed_n == 0) {
        return false;
    }
    *out_page = pages->freed_ids[--pages->freed_n];
    pages->is_freed[*out_page] = false;
    return true;
}
