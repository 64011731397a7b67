/* Broken and unsupported adapters, each refused with its exact sentence. */
#include "tests/unit/adapter_make.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#define T(layer, proj, half)                                                                       \
    "tensor \"base_model.model.model.layers." layer ".self_attn." proj ".lora_" half ".weight\""
#define CONFIG(changed)                                                                            \
    "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"q_proj\",\"v_proj\"]"  \
    "," changed "}"

struct malformed {
    struct make make;
    int code;
    const char *text; /* behind `could not load adapter "x": ` */
};

#define BAD_CONFIG(json)                                                                           \
    {                                                                                              \
        .config = (json), .skip = -1, .change = -1                                                 \
    }
#define REFUSED ERR_ADAPTER_INCOMPATIBLE

static const struct malformed malformed_configs[] = {
    {BAD_CONFIG("{\"peft_type\": \"LORA\",}"), ERR_BAD_FILE,
     "adapter_config.json: line 1: not valid JSON: string or '}' expected near '}'"},
    {BAD_CONFIG("[1]"), ERR_BAD_FILE, "adapter_config.json: is not an object"},
    {BAD_CONFIG("{\"r\":2,\"r\":3}"), ERR_BAD_FILE,
     "adapter_config.json: line 1: not valid JSON: duplicate object key near '\"r\"'"},
    {BAD_CONFIG("{}"), ERR_BAD_FILE, "adapter_config.json: \"peft_type\" is missing"},
    {BAD_CONFIG("{\"peft_type\":\"VERA\"}"), REFUSED,
     "adapter_config.json: \"peft_type\" is \"VERA\", only \"LORA\" and \"IA3\" are supported"},
    {BAD_CONFIG("{\"peft_type\":\"LORA\"}"), ERR_BAD_FILE,
     "adapter_config.json: \"target_modules\" is missing"},
    {BAD_CONFIG("{\"peft_type\":\"LORA\",\"target_modules\":\"all-linear\"}"), REFUSED,
     "adapter_config.json: \"target_modules\" is \"all-linear\", only a list of names is "
     "supported"},
    {BAD_CONFIG("{\"peft_type\":\"LORA\",\"target_modules\":null}"), REFUSED,
     "adapter_config.json: \"target_modules\" is null, only a list of names is supported"},
    {BAD_CONFIG("{\"peft_type\":\"LORA\",\"target_modules\":[]}"), ERR_BAD_FILE,
     "adapter_config.json: \"target_modules\" is an empty list"},
    {BAD_CONFIG("{\"peft_type\":\"LORA\",\"target_modules\":[\"q_proj\",7]}"), REFUSED,
     "adapter_config.json: \"target_modules\" is [\"q_proj\",7], each must be a name"},
    {BAD_CONFIG("{\"peft_type\":\"LORA\",\"r\":0}"), ERR_BAD_FILE,
     "adapter_config.json: \"r\" is 0, it must lie in 1 to 4096"},
    {BAD_CONFIG("{\"peft_type\":\"LORA\",\"r\":\"16\"}"), ERR_BAD_FILE,
     "adapter_config.json: \"r\" is \"16\", an integer is wanted"},
    {BAD_CONFIG("{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":1e300}"), ERR_BAD_FILE,
     "adapter_config.json: \"lora_alpha\" is 1e+300, the scale is not finite"},
    {BAD_CONFIG(CONFIG("\"use_rslora\":1")), ERR_BAD_FILE,
     "adapter_config.json: \"use_rslora\" is 1, true or false is wanted"},
    {BAD_CONFIG(CONFIG("\"bias\":\"lora_only\"")), REFUSED,
     "adapter_config.json: \"bias\" is \"lora_only\", only \"none\" is supported"},
    {BAD_CONFIG(CONFIG("\"init_lora_weights\":\"pissa_niter_4\"")), REFUSED,
     "adapter_config.json: \"init_lora_weights\" is \"pissa_niter_4\", an initialisation that "
     "changes the base's weights"},
    {BAD_CONFIG(CONFIG("\"use_dora\":true")), REFUSED,
     "adapter_config.json: \"use_dora\" is true, which is not supported"},
    {BAD_CONFIG(CONFIG("\"rank_pattern\":{\"k_proj\":4}")), REFUSED,
     "adapter_config.json: \"rank_pattern\" is {\"k_proj\":4}, which is not supported"},
    {BAD_CONFIG(CONFIG("\"alpha_pattern\":{\"k_proj\":4}")), REFUSED,
     "adapter_config.json: \"alpha_pattern\" is {\"k_proj\":4}, which is not supported"},
    {BAD_CONFIG(CONFIG("\"modules_to_save\":[\"lm_head\"]")), REFUSED,
     "adapter_config.json: \"modules_to_save\" is [\"lm_head\"], which is not supported"},
    {BAD_CONFIG(CONFIG("\"layers_to_transform\":0")), REFUSED,
     "adapter_config.json: \"layers_to_transform\" is 0, which is not supported"},
    {BAD_CONFIG(CONFIG("\"lora_bias\":true")), REFUSED,
     "adapter_config.json: \"lora_bias\" is true, which is not supported"},
    {BAD_CONFIG(CONFIG("\"fan_in_fan_out\":true")), REFUSED,
     "adapter_config.json: \"fan_in_fan_out\" is true, which is not supported"},
    {BAD_CONFIG(CONFIG("\"trainable_token_indices\":[3]")), REFUSED,
     "adapter_config.json: \"trainable_token_indices\" is [3], which is not supported"},
    {BAD_CONFIG(CONFIG("\"alora_invocation_tokens\":[1,2]")), REFUSED,
     "adapter_config.json: \"alora_invocation_tokens\" is [1,2], which is not supported"},
    {BAD_CONFIG(CONFIG("\"something_new\":0.5")), REFUSED,
     "adapter_config.json: \"something_new\" is 0.5, which is not supported"},
    {BAD_CONFIG("{\"peft_type\":\"LORA\",\"r\":2,\"target_modules\":[\"q_proj\",\"v_proj\","
                "\"lm_head\"]}"),
     REFUSED,
     "adapter_config.json: \"target_modules\" names \"lm_head\", the model's layers have no such "
     "linear"},
    {BAD_CONFIG("{\"peft_type\":\"LORA\",\"r\":2,\"target_modules\":[\"q_proj\"]}"), ERR_BAD_FILE,
     T("0", "v_proj", "A") " is of a module that \"target_modules\" does not name"},
    {BAD_CONFIG("{\"peft_type\":\"LORA\",\"r\":2,\"target_modules\":[\"q_proj\",\"v_proj\","
                "\"k_proj\"]}"),
     ERR_BAD_FILE, T("0", "k_proj", "A") " is missing, \"target_modules\" names \"k_proj\""},
};

static const struct malformed malformed_tensors[] = {
    {{.skip = 5, .change = -1},
     ERR_BAD_FILE,
     T("1", "q_proj", "B") " is missing, \"target_modules\" names \"q_proj\""},
    {{.skip = -1, .change = 0, .rows = 24},
     REFUSED,
     T("0", "q_proj", "A") " has 24 rows, rank is 2"},
    {{.skip = -1, .change = 3, .cols = 3},
     REFUSED,
     T("0", "v_proj", "B") " has 3 columns, rank is 2"},
    {{.skip = -1, .change = 4, .cols = 15},
     REFUSED,
     T("1", "q_proj", "A") " has 15 columns, the model's linear has 16 inputs"},
    {{.skip = -1, .change = 7, .rows = 16},
     REFUSED,
     T("1", "v_proj", "B") " has 16 rows, the model's linear has 8 outputs"},
    {{.skip = -1, .change = 0, .is_flat = true},
     ERR_BAD_FILE,
     T("0", "q_proj", "A") " has shape [32], a matrix is wanted"},
    {{.skip = -1, .change = 0, .dtype = "I16"},
     REFUSED,
     T("0", "q_proj", "A") " has type I16, only F32, F16 and BF16 are supported"},
    {{.skip = -1, .change = 2, .value = NAN},
     ERR_BAD_FILE,
     T("0", "v_proj", "A") " has a NaN at "
                           "[0, 5]"},
    {{.skip = -1, .change = 1, .value = -INFINITY},
     ERR_BAD_FILE,
     T("0", "q_proj", "B") " has an infinity at [2, 1]"},
    {{.skip = -1, .change = 1, .value = 3.4e38f},
     REFUSED,
     T("0", "q_proj", "B") " has 3.4e+38 at [2, 1], too large for bf16"},
    {{.skip = -1, .change = 0, .scale = 1e-39f},
     REFUSED,
     T("0", "q_proj", "A") " changes by 0.138 of its largest value when held as bf16, limit is "
                           "0.00391"},
    {{.skip = -1, .change = 0, .name = "base_model.model.lm_head.lora_A.weight"},
     REFUSED,
     "tensor \"base_model.model.lm_head.lora_A.weight\" belongs to no linear of the model's "
     "layers"},
    {{.skip = -1, .change = 0, .name = "base_model.model.model.embed_tokens.lora_embedding_A"},
     REFUSED,
     "tensor \"base_model.model.model.embed_tokens.lora_embedding_A\" is not a factor of the form "
     "base_model.model.<module>.lora_A.weight or .lora_B.weight"},
    {{.skip = -1,
      .change = 0,
      .name = "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight"},
     REFUSED,
     T("2", "q_proj", "A") " belongs to no linear of the model's layers"},
    {{.skip = -1, .change = 0, .name = "model.layers.0.self_attn.q_proj.lora_A.weight"},
     REFUSED,
     "tensor \"model.layers.0.self_attn.q_proj.lora_A.weight\" is not a factor of the form "
     "base_model.model.<module>.lora_A.weight or .lora_B.weight"},
    {{.skip = -1, .change = 0, .name = "base_model.model.lora_A.weight"},
     REFUSED,
     "tensor \"base_model.model.lora_A.weight\" is not a factor of the form "
     "base_model.model.<module>.lora_A.weight or .lora_B.weight"},
};

static struct make_dir dir;
static struct model_desc desc;
static struct store *store;

static void expect(int code, const char *text)
{
    struct prepare_job job;
    char want[ERR_TEXT_BYTES];
    snprintf(want, sizeof want, "could not load adapter \"x\": %s", text);
    make_prepare(store, "x", &job);
    assert_string_equal(job.err.text, want);
    assert_int_equal(job.err.code, code);
    assert_null(job.version);
}

static void expect_all(const struct malformed *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        make_adapter(&dir, "x", &cases[i].make);
        expect(cases[i].code, cases[i].text);
    }
    /* The folder was good but for the one thing. */
    struct prepare_job job;
    make_adapter(&dir, "x", &MAKE_GOOD);
    make_prepare(store, "x", &job);
    assert_string_equal(job.err.text, "");
    version_free(job.version);
}

static void configs_are_refused_by_key(void **state)
{
    (void)state;
    expect_all(malformed_configs, ARRAY_N(malformed_configs));
}

static void tensors_are_refused_by_name(void **state)
{
    (void)state;
    expect_all(malformed_tensors, ARRAY_N(malformed_tensors));
}

static void files_are_refused(void **state)
{
    char path[256];
    (void)state;
    make_adapter(&dir, "x", &MAKE_GOOD);
    make_file(&dir, "x/adapter_model.safetensors", "\2\0\0\0\0\0\0\0{}", 10);
    expect(ERR_BAD_FILE, "adapter_model.safetensors: holds no tensors");
    make_file(&dir, "x/adapter_model.safetensors", "", 0);
    expect(ERR_BAD_FILE, "adapter_model.safetensors: is 0 bytes long, no safetensors file is");
    make_path(&dir, "x/adapter_model.safetensors", path);
    assert_int_equal(remove(path), 0);
    expect(ERR_BAD_FILE, "adapter_model.safetensors is missing");
    make_file(&dir, "x/adapter_model.bin", "\x80\2", 2);
    expect(ERR_BAD_FILE, "adapter_model.bin is a pickle, which is never read; save it as "
                         "adapter_model.safetensors");
    assert_int_equal(mkfifo(path, 0600), 0);
    expect(ERR_BAD_FILE, "adapter_model.safetensors is not a regular file");
    assert_int_equal(remove(path), 0);
    make_file(&dir, "x/adapter_model.safetensors", "", 0);
    assert_int_equal(truncate(path, (off_t)LIMIT_ADAPTER_FILE_BYTES + 1), 0);
    expect(ERR_BAD_FILE, "adapter_model.safetensors is 4294967297 bytes long, limit is 4294967296");
    make_path(&dir, "x/adapter_config.json", path);
    assert_int_equal(truncate(path, LIMIT_CONFIG_JSON_BYTES + 1), 0);
    expect(ERR_BAD_FILE, "adapter_config.json is 1048577 bytes long, limit is 1048576");
    assert_int_equal(remove(path), 0);
    expect(ERR_BAD_FILE, "adapter_model.bin is a pickle, which is never read; the folder holds no "
                         "adapter_config.json");
    make_path(&dir, "x/adapter_model.bin", path);
    assert_int_equal(remove(path), 0);
    expect(ERR_BAD_FILE, "the folder holds no adapter_config.json and no states.safetensors");
    struct prepare_job job;
    make_prepare(store, "y", &job);
    assert_int_equal(job.err.code, ERR_ADAPTER_NOT_FOUND);
    assert_string_equal(job.err.text, "could not load adapter \"y\": the adapter root has no "
                                      "folder of that name");
}

static int setup(void **state)
{
    (void)state;
    make_open(&dir, MAKE_MODEL, DTYPE_BF16, &desc, &store);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    make_close(&dir, &desc, store);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configs_are_refused_by_key),
        cmocka_unit_test(tensors_are_refused_by_name),
        cmocka_unit_test(files_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
