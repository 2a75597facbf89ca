"""vLLM as the server sees it: the one place in `server/` that names vLLM.

Supports vLLM 0.32 and 0.33. What is touched beyond these names (attributes of the app's state, private fields) stands
in `drr.engine.border`; `scripts/check_vllm.py VERSION` checks both against a version of vLLM.
"""

from vllm import __version__ as VLLM_VERSION  # noqa: N812
from vllm import envs
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest, AnthropicMessagesResponse
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.entrypoints.generate.base.protocol import DeltaMessage, FunctionCall
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.launcher import NoSignalServer, setup_server
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.entrypoints.launchers.utils.ssl import SSLCertRefresher
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest, ResponsesResponse
from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, ModelCard, ModelList, UsageInfo
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.exceptions import GracefulHTTPError, VLLMClientError, VLLMValidationError
from vllm.inputs.engine import tokens_input
from vllm.logger import configure_logging_from_args
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.parser.abstract_parser import Parser
from vllm.parser.parser_manager import ParserManager
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

try:
    from vllm.entrypoints.common.cli_args import make_arg_parser, validate_parsed_serve_args  # 0.33
except ImportError:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args  # 0.32

__all__ = [
    "VLLM_VERSION",
    "AnthropicMessagesRequest",
    "AnthropicMessagesResponse",
    "AnthropicServingMessages",
    "AsyncEngineArgs",
    "AsyncLLM",
    "ChatCompletionRequest",
    "ChatCompletionResponse",
    "CompletionOutput",
    "DeltaMessage",
    "EngineDeadError",
    "ErrorResponse",
    "FlexibleArgumentParser",
    "FunctionCall",
    "GracefulHTTPError",
    "ModelCard",
    "ModelList",
    "NoSignalServer",
    "OpenAIServingChat",
    "OpenAIServingModels",
    "OpenAIServingResponses",
    "Parser",
    "ParserManager",
    "RequestOutput",
    "RequestOutputKind",
    "ResponsesRequest",
    "ResponsesResponse",
    "SSLCertRefresher",
    "SamplingParams",
    "StructuredOutputsParams",
    "UsageContext",
    "UsageInfo",
    "VLLMClientError",
    "VLLMValidationError",
    "build_app",
    "configure_logging_from_args",
    "create_error_response",
    "get_uvicorn_log_config",
    "init_app_state",
    "make_arg_parser",
    "setup_server",
    "tokens_input",
    "validate_parsed_serve_args",
    "vllm_parses_responses_itself",
]


def vllm_parses_responses_itself() -> bool:
    """Whether an environment variable has vLLM's Responses parse tokens as they come, over several turns."""
    return bool(envs.VLLM_USE_EXPERIMENTAL_PARSER_CONTEXT)
