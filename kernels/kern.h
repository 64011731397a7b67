/* The op contract: everything a backend must do, nothing optional. Implementations: ref/ (plain
 * loops, the specification), cpu/ (fast), cuda/, fault/ (wraps another one).
 *
 * The law of order. On ref and cpu the bits of every output element depend on its inputs, K, dtype
 * and instruction set only: never on the number of rows, threads, tiles, neighbours, or on the
 * split of a prompt at multiples of 64 positions. So: one reduction order per (K, dtype, isa);
 * attention walks key blocks of LIMIT_KV_PAGE positions in order; a ragged tail runs the same
 * instructions as the body; exp and the like come from one function per path; no contraction, fma
 * written out; low-rank effects are added in segment order in fp32 and the sum is rounded once.
 *
 * On cuda the same holds of K, dtype and the form of the row (prompt or generated).
 *
 * Types. `held` is the type weights, KV and the inputs of linear ops are held in: bf16 or f32, on
 * cuda bf16 or f16. The residual h, q, parts, logits, norms, softmax and every accumulation are
 * fp32.
 *
 * Memory. Pointers named `dev` point into memory from reserve(); on ref and cpu that is host
 * memory. Threads: the rank thread calls everything, except weight_bytes/weight_pack (pure, any
 * thread), and bring(), is_brought(), discard() and kv_discard() (the engine thread). Compute ops
 * return nothing; a failure surfaces at read_step. A matrix is row-major, `stride` elements from
 * row to row. */
#ifndef KERNELS_KERN_H
#define KERNELS_KERN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/dtype.h"
#include "base/err.h"
#include "kernels/kern_ops.h"
#include "kernels/kern_recurrent.h"
#include "kernels/kern_step.h"

struct kern_dev; /* one open device of a backend */
struct weights_random;

#define KERN_RESERVE_ALIGN 256 /* pieces of reserve_bytes take multiples of this */

enum kern_isa {
    KERN_ISA_AUTO,
    KERN_ISA_PORTABLE,
    KERN_ISA_AVX2,
    KERN_ISA_AVX512,
    KERN_ISA_AVX512BF16,
    KERN_ISA_AMX,
    KERN_ISA_N
};

struct kern_open {
    enum kern_isa isa;    /* AUTO: the fastest one measured at open */
    bool is_stand_in;     /* tests: emulate avx512bf16/amx where the machine lacks them */
    uint32_t thread_n;    /* team size, the caller included; 0 = as many as the affinity mask has */
    enum dtype held;      /* DTYPE_BF16 or DTYPE_F32; on cuda DTYPE_BF16 or DTYPE_F16 */
    uint32_t row_max;     /* rows of one step */
    uint32_t slot_max;    /* sequence slots */
    uint32_t version_max; /* adapter version slots */
    uint32_t k_max;       /* largest input width of a linear op */
    uint32_t n_max;       /* largest total output width of one linear group */
    uint64_t
        nk_max; /* largest product of the two in one group, the head among them; 0 = n_max k_max */
    uint32_t vocab_n;
    uint32_t rank_max;     /* largest sum of ranks one linear group may meet per row; sizes u */
    uint32_t seq_page_max; /* KV pages of one sequence; 0 = as many as there are */
    uint32_t device;       /* where is_device: which one, from 0 */
    /* Where is_device: memory to take at once for all that open, kv_open and reserve will ask for;
     * 0 = piece by piece. */
    size_t reserve_bytes;
};

/* A matrix on the host, row-major [n, k] without gaps, as a checkpoint stores a Linear's weight. */
struct kern_matrix {
    const void *data;
    enum dtype dtype;
    uint32_t n; /* outputs (rows of the file's tensor) */
    uint32_t k; /* inputs */
};

/* Paged KV memory: [layer][page][K then V][kv_head][LIMIT_KV_PAGE][head_dim] of the held type. */
struct kern_kv {
    uint32_t layer_n;
    uint32_t page_n;
    uint32_t kv_head_n;
    uint32_t head_dim;
    uint32_t head_n; /* query heads; sizes scratch */
};

/* What the ops of one part work on. */
struct kern_part {
    uint32_t row_n;
    uint32_t sample_n;
    uint32_t score_n;
};

struct kern {
    const char *name; /* "ref", "cpu", "cuda", "fault" */
    bool is_device;   /* reserve() gives memory of a device of its own, not the host's */

    /* Device. */
    int (*open)(const struct kern_open *args, struct kern_dev **out, struct err *err);
    void (*close)(struct kern_dev *dev);
    const char *(*isa_name)(const struct kern_dev *dev); /* what runs: "avx512", "ref" */
    /* Why steps fail; "" while they do not. Any thread; the text stays. */
    const char *(*failure)(const struct kern_dev *dev);
    int (*reserve)(struct kern_dev *dev, size_t bytes, void **out_dev, struct err *err);
    void (*put)(struct kern_dev *dev, void *to_dev, const void *from, size_t bytes);
    void (*get)(struct kern_dev *dev, void *to, const void *from_dev, size_t bytes);
    /* Bytes into memory that no unread step names, while steps run. bring begins to copy as many as
     * there is room for, from 0 to all, and returns how many; is_brought says whether they, and all
     * before them, are there: until then `from` stays as it is. After a failure of the device they
     * always are; the next step tells. discard: these bytes mean nothing any more. */
    size_t (*bring)(struct kern_dev *dev, void *to_dev, const void *from, size_t bytes,
                    uint64_t *out_ticket);
    bool (*is_brought)(struct kern_dev *dev, uint64_t ticket);
    void (*discard)(struct kern_dev *dev, void *at_dev, size_t bytes);
    /* Host memory that a device reads by itself, so that bring costs its caller nothing there;
     * until close. Once at most. NULL where it would gain nothing, or there is none: bring takes
     * any. */
    void *(*reserve_host)(struct kern_dev *dev, size_t bytes);
    /* The same of a KV page's bytes in all layers; a page that no unread step names. */
    void (*kv_discard)(struct kern_dev *dev, uint32_t page);
    int (*kv_open)(struct kern_dev *dev, const struct kern_kv *kv, struct err *err);
    size_t (*kv_bytes)(enum dtype held, const struct kern_kv *kv);
    /* Memory of the recurrent layers, *out_dev [layer_n][slot_n][kern_state_slot_n]; not called for
     * a model without them. */
    int (*state_open)(struct kern_dev *dev, const struct kern_state *state, float **out_dev,
                      struct err *err);
    /* What open and kv_open take beside the KV pages, from above where it depends on what the
     * machine has. Of the host's memory too where is_device: *out_host, else 0. */
    size_t (*workspace_bytes)(const struct kern_open *args, const struct kern_kv *kv,
                              size_t *out_host);

    /* Weights: the backend's own layout; source values are converted to the held type by rounding.
     * weight_bytes and weight_pack are pure; the packed form equals on every device of a backend.
     */
    size_t (*weight_bytes)(enum dtype held, uint32_t n, uint32_t k);
    void (*weight_pack)(enum dtype held, const struct kern_matrix *src, void *out);
    /* weight_pack straight into device memory. */
    void (*weight_load)(struct kern_dev *dev, const struct kern_matrix *src, void *to_dev);
    /* The same of generated values (kernels/weights_random.h). */
    void (*weight_random)(struct kern_dev *dev, const struct weights_random *src, void *to_dev);
    /* What multiplies the rows of prompts, in words, chosen by the weights that were loaded. */
    const char *(*prompt_form)(const struct kern_dev *dev);
    size_t (*part_bytes)(uint32_t row_n, uint32_t n);

    /* Version slot -> its effect_block in device memory (NULL forgets it). Between steps only. */
    void (*set_version)(struct kern_dev *dev, uint32_t version, const void *block_dev);

    /* Before the first step, for a caller whose steps call the same ops with the same arguments for
     * every part of a kind: kinds of parts to be recorded once and replayed from then on. Gives
     * them out until out->row_n is 0; the caller calls a part's ops, which do not run, before it
     * asks for the next one. `model` is a step without rows. Without it, and on ref and cpu,
     * nothing is replayed. */
    int (*next_capture)(struct kern_dev *dev, const struct kern_step *model, struct kern_part *out,
                        struct err *err);

    /* Steps. begin_step binds the views until end_step. The walk asks for parts until there is none
     * and calls the ops of each; a backend that replays a captured part does not give it out.
     * end_step closes the step: `results` (dev [result_n], where sample and score wrote) are to
     * reach the host. Nothing of a step but its results is used once end_step has returned.
     * read_step takes the results of the oldest step that was not read: 0, or 1 when it has not
     * ended yet (is_waiting: it waits instead), or ERR_DEVICE_FAILURE, also when the device made no
     * progress for LIMIT_DEVICE_SILENCE_NS (emulated: longer). At most step_ahead + 1 steps are
     * begun and not read. */
    uint32_t step_ahead;      /* 0 on ref and cpu, where ops run as they are called */
    uint32_t part_sample_max; /* samples of one part; 0 = as many as the step has */
    void (*begin_step)(struct kern_dev *dev, const struct kern_step *step);
    bool (*next_part)(struct kern_dev *dev, struct kern_part *out);
    void (*end_step)(struct kern_dev *dev, const struct kern_token *results, uint32_t result_n);
    int (*read_step)(struct kern_dev *dev, struct kern_token *out, bool is_waiting);
    /* Values beyond fp16 that were made its largest ones, in all steps that were read. */
    uint64_t (*saturated_n)(const struct kern_dev *dev);

    /* Compute. */
    void (*embed)(struct kern_dev *dev, const struct kern_embed *op);
    void (*join)(struct kern_dev *dev, const struct kern_join *op);
    void (*linear)(struct kern_dev *dev, const struct kern_linear *op);
    void (*attend)(struct kern_dev *dev, const struct kern_attend *op);
    void (*gdn)(struct kern_dev *dev, const struct kern_gdn *op);
    void (*ssd)(struct kern_dev *dev, const struct kern_ssd *op);
    void (*head)(struct kern_dev *dev, const struct kern_head *op);
    void (*sample)(struct kern_dev *dev, const struct kern_sample *op);
    void (*score)(struct kern_dev *dev, const struct kern_score *op);
};

extern const struct kern kern_ref;
extern const struct kern kern_cpu;

/* "portable", "avx2", ...; KERN_ISA_N for another word. */
enum kern_isa kern_isa_parse(const char *word);
const char *kern_isa_word(enum kern_isa isa);

#endif
