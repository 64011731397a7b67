graft_test(text_test unit/text_test.c text)
graft_test(text_refuse_test unit/text_refuse_test.c text)
graft_test(text_golden_test unit/text_golden_test.c text)
