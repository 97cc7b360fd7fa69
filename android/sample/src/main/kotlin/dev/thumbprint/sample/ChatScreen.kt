package dev.thumbprint.sample

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.foundation.lazy.rememberLazyListState
import androidx.compose.material3.Button
import androidx.compose.material3.Card
import androidx.compose.material3.FilterChip
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.semantics.contentDescription
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import dev.thumbprint.Feedback
import dev.thumbprint.Role

@Composable
fun ChatScreen(model: ChatViewModel) {
    val list = rememberLazyListState()
    LaunchedEffect(model.turns.size, model.turns.lastOrNull()?.text?.length) {
        if (model.turns.isNotEmpty()) list.scrollToItem(model.turns.lastIndex)
    }
    Column(Modifier.padding(8.dp)) {
        LazyColumn(Modifier.weight(1f), list, verticalArrangement = Arrangement.spacedBy(8.dp)) {
            items(model.turns) { TurnCard(it, model) }
        }
        Say(model)
    }
}

@Composable
private fun TurnCard(turn: Turn, model: ChatViewModel) {
    val mine = turn.role == Role.USER
    Column(Modifier.fillMaxWidth(), horizontalAlignment = if (mine) Alignment.End else Alignment.Start) {
        Card { Text(turn.text, Modifier.padding(12.dp)) }
        if (turn.reply != null) {
            Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
                Thumb("👍", stringResource(R.string.liked), turn.thumb is Feedback.Up) { model.judge(turn, Feedback.Up) }
                Thumb("👎", stringResource(R.string.disliked), turn.thumb is Feedback.Down) {
                    model.judge(turn, Feedback.Down())
                }
            }
        }
    }
}

@Composable
private fun Thumb(sign: String, description: String, pressed: Boolean, onClick: () -> Unit) {
    FilterChip(
        pressed,
        onClick,
        { Text(sign) },
        Modifier.semantics { contentDescription = description },
    )
}

@Composable
private fun Say(model: ChatViewModel) {
    var text by rememberSaveable { mutableStateOf("") }
    Row(verticalAlignment = Alignment.CenterVertically, horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        OutlinedTextField(
            text,
            { text = it },
            Modifier.weight(1f),
            placeholder = { Text(stringResource(R.string.say_something)) },
        )
        if (model.isTalking) {
            Button(model::stop) { Text(stringResource(R.string.stop)) }
        } else {
            Button(
                {
                    model.send(text)
                    text = ""
                },
                enabled = text.isNotBlank(),
            ) { Text(stringResource(R.string.send)) }
        }
    }
}
